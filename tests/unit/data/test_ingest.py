"""From files of frames to a data folder: splits by molecule, formula and time, and every frame accounted for."""

import hashlib
import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chemscale.data import ingest
from chemscale.data.subsets import split_of, time_splits
from chemscale.errors import DataError

WATER = np.array([[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
KCAL_MOL = 4184 / 6.02214076e23 / 1.602176634e-19


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _rmd17(folder, frames, duration, bad=()):
    """A shuffled trajectory as rMD17 has it: some frames of a longer one, in whatever order."""
    random = np.random.default_rng(0)
    arrays = {
        "nuclear_charges": np.array([8, 1, 1], np.uint8),
        "coords": WATER + random.normal(0, 0.02, (frames, 3, 3)),
        "energies": -47_900 + random.normal(0, 3, frames),
        "forces": random.normal(0, 25, (frames, 3, 3)),
        "old_indices": random.permutation(duration)[:frames],
    }
    arrays["energies"][list(bad)] = np.nan
    np.savez(folder / "rmd17_water.npz", **arrays)
    return arrays


@pytest.fixture
def by_time(section, tmp_path):
    return section(
        kind="structures", source="file", path=str(tmp_path / "rmd17_water.npz"), format="rmd17",
        energy_unit="kcal/mol", length_unit="angstrom", split_by="time", validation=0.1, test=0.2, gap_frames=15,
    )  # fmt: skip


def test_a_shuffled_trajectory_is_split_in_its_own_time(by_time, build, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(ingest, "UNIT_FRAMES", 64)
    arrays = _rmd17(tmp_path, frames=300, duration=1000, bad=[3, 5])
    manifest = build(by_time, tmp_path / "set", chunks=2)
    order = arrays["old_indices"]
    good = np.delete(np.arange(300), [3, 5])
    duration = int(order[good].max()) + 1
    assert manifest["source"]["durations"] == {"water": duration}
    assert (manifest["rows_in"], manifest["rejected"]) == (300, {"not_computed": 2})
    table = _shards(tmp_path / "set").sort_values("frame")
    assert table["frame"].tolist() == sorted(order[good])
    times = time_splits(by_time, duration)
    assert table["split"].tolist() == [times[frame][1] for frame in table["frame"]]
    assert table["group"].tolist() == [_digest(f"water|{times[frame][0]}") for frame in table["frame"]]
    # no frame of training is nearer than the gap to one of another split, in the time of the trajectory
    runs = [
        (split, list(part))
        for split, part in groupby(zip(table["split"], table["frame"], strict=True), lambda row: row[0])
    ]
    assert [split for split, _ in runs] == ["train", "gap", "validation", "gap", "test"]
    frames = {split: table["frame"][table["split"] == split] for split in ("train", "validation", "test")}
    assert frames["validation"].min() - frames["train"].max() > 15
    assert frames["test"].min() - frames["validation"].max() > 15
    assert manifest["splits"]["gap"]["rows"] == sum(table["split"] == "gap") > 0
    # values are those of the file, in eV and angstrom
    for row in table.to_dict("records"):
        place = int(np.flatnonzero(order == row["frame"])[0])
        assert row["energy"] == pytest.approx(arrays["energies"][place] * KCAL_MOL, rel=1e-9)
        np.testing.assert_array_equal(row["positions"], arrays["coords"][place].ravel())
        np.testing.assert_allclose(row["forces"], arrays["forces"][place].ravel() * KCAL_MOL, rtol=1e-9)


def test_a_trajectory_too_short_for_its_gaps_is_refused_at_once(by_time, build, tmp_path, in_process):
    _rmd17(tmp_path, frames=20, duration=20)
    with pytest.raises(DataError, match="no frame left for"):
        build(by_time, tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize(("unit", "chunks"), [(10_000, 1), (7, 3), (50, 2)])
def test_how_the_work_is_cut_changes_no_byte(by_time, build, tmp_path, in_process, monkeypatch, unit, chunks):
    _rmd17(tmp_path, frames=300, duration=1000)
    expected = build(by_time, tmp_path / "whole" / "set")
    monkeypatch.setattr(ingest, "UNIT_FRAMES", unit)
    assert build(by_time, tmp_path / "cut" / "set", chunks=chunks) == expected
    # the shards' digests are in the manifest


def _extxyz(path, count):
    """Isomers, and frames of them, by name: names and formulas do not agree."""
    random = np.random.default_rng(1)
    shapes = [("H2O", [8, 1, 1]), ("CH2", [6, 1, 1]), ("HO2", [1, 8, 8]), ("CO2", [6, 8, 8]), ("N3", [7, 7, 7])]
    symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
    lines, told = [], []
    for frame in range(count):
        name, numbers = shapes[frame % 5]
        positions = 1.6 * WATER + random.normal(0, 0.02, (3, 3))
        forces = random.normal(size=(3, 3))
        molecule = f"{name} no {frame % 60}"
        lines += ["3", f'Properties=species:S:1:pos:R:3:forces:R:3 energy={frame}.5 name="{molecule}" pbc="F F F"']
        lines += [
            " ".join([symbols[number], *map(repr, position.tolist()), *map(repr, force.tolist())])
            for number, position, force in zip(numbers, positions, forces, strict=True)
        ]
        told.append({"molecule": molecule, "formula": "".join(sorted(symbols[number] for number in numbers)),
                     "energy": frame + 0.5, "positions": positions.ravel()})  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return told


@pytest.mark.parametrize("split_by", ["molecule", "formula"])
def test_no_molecule_or_formula_straddles_splits(section, build, tmp_path, in_process, split_by):
    told = _extxyz(tmp_path / "own.xyz", 600)
    given = section(
        kind="structures", source="file", path=str(tmp_path / "own.xyz"), format="extxyz", energy_unit="eV",
        length_unit="angstrom", molecule_key="name", split_by=split_by, rows_per_shard=256,
        validation=0.2 if split_by == "molecule" else 0.0, test=0.3,
    )  # fmt: skip
    manifest = build(given, tmp_path / "set")
    assert (manifest["rows_in"], manifest["rows_kept"], manifest["rejected"]) == (600, 600, {})
    table = _shards(tmp_path / "set")
    by_energy = {row["energy"]: row for row in told}
    table["formula"] = [by_energy[energy]["formula"] for energy in table["energy"]]
    for row in table.to_dict("records"):
        known = by_energy[row["energy"]]
        assert row["molecule"] == known["molecule"]
        np.testing.assert_array_equal(row["positions"], known["positions"])
    assert table.groupby(split_by)["split"].nunique().max() == 1
    assert table["group"].nunique() == {"molecule": 60, "formula": 5}[split_by]
    assert [split_of(group, given["validation"], given["test"]) for group in table["group"]] == table["split"].tolist()
    if split_by == "molecule":
        # which is a difference: formulas do straddle
        assert table.groupby("formula")["split"].nunique().max() > 1


def test_wrong_units_are_told_in_the_manifest(section, build, tmp_path, in_process):
    _rmd17(tmp_path, frames=100, duration=100)
    given = section(
        kind="structures", source="file", path=str(tmp_path / "rmd17_water.npz"), format="rmd17",
        energy_unit="hartree", length_unit="angstrom", validation=0.0, test=0.0, largest_force=1e6,
    )  # fmt: skip
    manifest = build(given, tmp_path / "set")
    assert any("check energy_unit" in warning for warning in manifest["warnings"])
    assert json.loads(Path(tmp_path / "set" / "manifest.json").read_text())["warnings"] == manifest["warnings"]
