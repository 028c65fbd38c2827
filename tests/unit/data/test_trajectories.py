"""Trajectories: the splits in time, the temperature, and one bit pattern for each seed."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from ase import units

from chemscale.data import frames, trajectories, xtb
from chemscale.data.starts import Start
from chemscale.data.subsets import time_splits
from chemscale.errors import DataError

SECTION = {
    "kind": "trajectories",
    "source": "xtb",
    "molecules": {"water": {"smiles": "O", "structure": None}, "hydrogen": {"smiles": "[H][H]", "structure": None}},
    "temperature": 500.0,
    "timestep": 0.5,
    "friction": 0.01,
    "equilibration_steps": 20,
    "save_every": 2,
    "frames_per_molecule": 20,
    "blocks": 10,
    "gap_frames": 1,
    "validation": 0.1,
    "test": 0.2,
    "seed": 0,
    "rows_per_shard": 100,
    "max_reject_share": 0.05,
}


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"gap_frames": 20}, "train"), ({"validation": 0.5, "test": 0.5}, "train"), ({"frames_per_molecule": 2}, "test")],
)
def test_a_split_without_frames_is_refused_before_any_work(changes, match, tmp_path, read_chunks, monkeypatch):
    monkeypatch.setattr(frames, "ordered_map", lambda *arguments: pytest.fail("work began"))
    with pytest.raises(DataError, match=match):
        read_chunks({**SECTION, **changes}, tmp_path)


@pytest.mark.parametrize(("smiles", "match"), [("C(", "no SMILES"), ("[NH4+]", "charge"), ("[CH3]", "unpaired")])
def test_a_wrong_molecule_is_named(smiles, match, tmp_path, read_chunks):
    with pytest.raises(DataError, match=rf"molecules\.mine\.smiles.*{match}"):
        read_chunks({**SECTION, "molecules": {"mine": {"smiles": smiles, "structure": None}}}, tmp_path)


def test_a_structure_file_of_an_ion_is_refused(tmp_path, read_chunks):
    path = tmp_path / "ion.xyz"
    path.write_text("3\nProperties=species:S:1:pos:R:3 total_charge=2\nO 0 0 0.12\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n")
    with pytest.raises(DataError, match=r"molecules\.mine\.structure .*found charged \(total_charge 2\)"):
        read_chunks({**SECTION, "molecules": {"mine": {"smiles": None, "structure": str(path)}}}, tmp_path)


def test_the_dynamics_hold_the_temperature():
    # ASE's default (fixcm) gives 600 K to a molecule of three atoms
    section = {**SECTION, "friction": 0.1}
    random = xtb.random_state(0, "O")
    surface, positions = xtb.minimum("O", random)
    dynamics = trajectories.langevin(surface, positions, section, random)
    dynamics.run(200)
    kinetic = []
    for _ in range(3000):
        dynamics.run(1)
        kinetic.append(dynamics.atoms.get_kinetic_energy())
    assert np.mean(kinetic) / (1.5 * 3 * units.kB) == pytest.approx(500, rel=0.08)


def test_the_same_bytes_whatever_the_workers_and_chunks(tmp_path, build):
    one = build(SECTION, tmp_path / "1" / "xtb-0")
    assert build(SECTION, tmp_path / "2" / "xtb-0", workers=2, chunks=2) == one
    assert one["rows_in"] == one["rows_kept"] == 40
    assert {split: counts["rows"] for split, counts in one["splits"].items()} == {
        "train": 26,
        "validation": 4,
        "test": 6,
        "gap": 4,
    }
    table = pd.read_parquet(tmp_path / "1" / "xtb-0" / "shards" / "shard-00000.parquet")
    times = time_splits(SECTION, 20)
    for molecule in ("water", "hydrogen"):
        part = table[table["molecule"] == molecule].sort_values("frame")
        assert part["frame"].tolist() == list(range(20))
        assert part["split"].tolist() == [split for _, split in times]
        names = [f"{molecule}|{block}" for block, _ in times]
        assert part["group"].tolist() == [hashlib.blake2b(n.encode(), digest_size=16).hexdigest() for n in names]
    # a group lies in one split, gaps aside
    assert table[table["split"] != "gap"].groupby("group")["split"].nunique().max() == 1
    # the stored forces are those of the stored positions
    frame = table[table["molecule"] == "water"].iloc[7]
    surface = xtb.Surface(frame["species"].astype(np.int64), accuracy=0.01)
    energy, forces = surface.energy_and_forces(frame["positions"].reshape(-1, 3))
    assert frame["energy"] == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(frame["forces"].reshape(-1, 3), forces, atol=2e-4)


def test_a_molecule_that_leaves_its_surface_loses_the_rest_of_its_frames(monkeypatch):
    run, calls = trajectories.langevin, 0

    def failing(*arguments):
        dynamics = run(*arguments)
        steps = dynamics.run

        def some(number):
            nonlocal calls
            calls += 1
            # the first call is the equilibration
            if calls == 9:
                raise xtb.Failure("scf_failed")
            return steps(number)

        dynamics.run = some
        return dynamics

    monkeypatch.setattr(trajectories, "langevin", failing)
    found = trajectories.simulate((Start("hydrogen", "[H][H]", "[H][H]"), SECTION))
    assert [row["frame"] for row in found.rows] == list(range(7))
    assert dict(found.rejected) == {"scf_failed": 13}
