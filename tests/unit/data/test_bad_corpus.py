"""Every bad file through the whole pipeline: a named error and no data, or data and an account of every row."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.data import structures
from chemscale.data.manifest import read_manifest
from chemscale.errors import DataError, InputError
from chemscale.io import read_json

BAD = Path(__file__).resolve().parents[2] / "data" / "bad"
MOLECULES = json.loads((BAD / "cases.json").read_text(encoding="utf-8"))
FRAMES = json.loads((BAD / "frames.json").read_text(encoding="utf-8"))
LOOSE = {"validation": 0.0, "test": 0.0, "max_reject_share": 0.99}


def test_there_are_many_cases():
    assert len(MOLECULES) + len(FRAMES) + len(WRITTEN) >= 60
    for cases in (MOLECULES, FRAMES):
        assert len({case["case"] for case in cases}) == len(cases)


def _accounted(folder):
    """The ledger of the chunk, of which nothing may be left out."""
    ledger = read_json(folder / "chunks" / "0of1.json")["ledger"]
    assert ledger["rows_in"] == ledger["rows_kept"] + sum(ledger["rejected"].values())
    return ledger


def _check(build, section, folder, expect, rows, path=None):
    """Build the data; the error that is expected, or the rejects; the manifest, None where there is none."""
    if "error" in expect:
        with pytest.raises(InputError) as caught:
            build(section, folder, path=path)
        assert expect["error"] in str(caught.value)
        assert not (folder / "manifest.json").exists()
        assert not (folder / "chunks" / "0of1.json").exists()
        return None
    kept = rows - sum(expect["rejected"].values())
    if not kept:
        # rows, but none that can be used: the account stands in the error
        with pytest.raises(DataError) as caught:
            build(section, folder, path=path)
        assert all(f"{count} {reason}" in str(caught.value) for reason, count in expect["rejected"].items())
        assert (_accounted(folder)["rows_in"], _accounted(folder)["rejected"]) == (rows, expect["rejected"])
        assert not (folder / "manifest.json").exists()
        return None
    manifest = build(section, folder, path=path)
    assert (manifest["rows_in"], manifest["rejected"]) == (rows, expect["rejected"])
    assert manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["rejected"].values())
    assert _accounted(folder)["rows_in"] == rows
    stored = pd.concat([pd.read_parquet(folder / shard["file"]) for shard in manifest["shards"]])
    assert len(stored) == manifest["rows_kept"] == kept
    assert stored["row"].is_unique
    return manifest


@pytest.mark.parametrize("case", MOLECULES, ids=[case["file"] for case in MOLECULES])
def test_bad_files_of_molecules(case, section, build, tmp_path, in_process):
    source = case.get("source", "file")
    told = section(
        kind="molecules", source=source, path=str(BAD / case["file"]), column=case.get("column"), **LOOSE
    )  # fmt: skip
    path = BAD / case["file"]
    expect = case["expect"]
    _check(build, told, tmp_path / "set", expect, expect.get("rows"), path)


@pytest.mark.parametrize("case", FRAMES, ids=[case["case"] for case in FRAMES])
def test_bad_files_of_frames(case, section, build, tmp_path, in_process):
    known = {"format": case["parser"], "energy_unit": "eV", "length_unit": "angstrom"} | case.get("located", {})
    # the config knows these formats and units; what reads a file has to judge others by itself
    config = {"format": "extxyz", "energy_unit": "eV", "length_unit": "angstrom"}
    told = section(kind="structures", source="file", path=str(BAD / case["file"]), **config, **case["section"], **LOOSE)
    told |= known
    expect = case["expect"]
    rows = None
    if "error" not in expect:
        rows = expect["frames"] + sum(expect["rejected"].values())
        source = {"files": [str(BAD / case["file"])], "parser": case["parser"], **known}
        frames = [item for item in structures.read(source, told) if isinstance(item, structures.Structure)]
        assert len(frames) == expect["frames"]
        if copies := len(frames) - len({frame.positions.tobytes() for frame in frames}):
            # the corpus repeats a frame where it is about something else
            expect = {**expect, "rejected": {**expect["rejected"], "duplicate": copies}}
    manifest = _check(build, told, tmp_path / "set", expect, rows)
    if manifest is not None:
        explained = [reason for reason in sorted(expect["rejected"]) if reason.startswith(("no_", "charged"))]
        warnings = manifest["warnings"]
        for reason, warning in zip(explained, warnings, strict=False):
            assert warning.startswith(f"frames rejected as {reason}: {expect['rejected'][reason]}; the first: ")
        assert len(warnings) == len(explained) + ("warning" in expect)
        assert expect.get("warning", "") in " ".join(warnings)


# --- one table, in whatever way it is written -------------------------------------------------------------------------

ROWS = ["CCO", "C1CC", "", "c1ccccc1", "OCC", "CC(=O)O", "*", "[Na+].[Cl-]"]


def _text(delimiter, end, header):
    lines = [f"smiles{delimiter}name"] if header else []
    lines += [f"{smiles}{delimiter}no {number}" for number, smiles in enumerate(ROWS)]
    return end.join(lines) + end


def _parquet(path):
    pq.write_table(pa.table({"name": list(map(str, range(8))), "smiles": ROWS}), path)


WRITTEN = {
    **{
        f"t{number}.{kind}": (kind, end, mark)
        for number, (kind, end, mark) in enumerate(
            (kind, end, mark)
            for kind in ("csv", "tsv", "smi", "txt", "csv.gz", "smi.gz")
            for end in ("\n", "\r\n", "\r")
            for mark in ("", "\ufeff")
        )
    },
    "t.parquet": None,
}


@pytest.fixture(scope="module")
def plainly(section, build, tmp_path_factory):
    """The manifest of the table as it is usually written."""
    folder = tmp_path_factory.mktemp("plainly")
    (folder / "t.csv").write_text(_text(",", "\n", True))
    told = section(kind="molecules", source="file", path=str(folder / "t.csv"), column="smiles", **LOOSE)
    return build(told, folder / "set")


@pytest.mark.parametrize("name", WRITTEN)
def test_how_a_table_is_written_changes_no_row(name, section, build, plainly, tmp_path, in_process):
    path = tmp_path / name
    if WRITTEN[name] is None:
        _parquet(path)
    else:
        kind, end, mark = WRITTEN[name]
        lists = kind.startswith(("smi", "txt"))
        content = (mark + _text({"tsv": "\t"}.get(kind, " " if lists else ","), end, not lists)).encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
        if lists:
            # an empty first word is none: the name stands in its place
            content = content.replace(b" no 2", b"")
            path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    told = section(kind="molecules", source="file", path=str(path), column="smiles", **LOOSE)
    manifest = build(told, tmp_path / "set")
    assert manifest["rejected"] == {"duplicate": 1, "empty": 1, "no_selfies": 1, "unparsable": 1}
    for key in ("rows_in", "rejected", "splits", "tokenizer_digest", "shards"):
        assert manifest[key] == plainly[key]
    assert read_manifest(tmp_path / "set") == manifest
