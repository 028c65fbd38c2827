"""Sorted runs to one set: that of a few lines in memory, however the work was cut, spread over processes or killed."""

import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import selfies

from chemscale.data import assemble, molecules, runs, sources
from chemscale.data.manifest import read_manifest
from chemscale.data.runs import DIGEST, Ledger, merge, open_arrow, partitions, run_path, write_run
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import DataError
from chemscale.io import read_json

ROOT = Path(__file__).resolve().parents[3]
SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A table of 800 real molecules and bad rows, 200 of them once more, in whatever order."""
    draw = random.Random(0)
    rows = [smiles for _, smiles in islice(sources.chemicals(), 0, 64_000, 80)]
    rows += draw.sample(rows, 200) + [f"{smiles}.Cl" for smiles in draw.sample(rows, 100)]
    rows += ["C1CC", "", "no", "*", "C" * 3000] * 3
    draw.shuffle(rows)
    path = tmp_path_factory.mktemp("source") / "own.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([["smiles"], *([row] for row in rows)])
    return path, rows


@pytest.fixture(scope="module")
def told(source, section):
    """The section of that table, in shards of 250; a symbol that training shows less than seven times is unknown."""
    return section(
        kind="molecules", source="file", path=str(source[0]), column="smiles", validation=0.1, test=0.2,
        rows_per_shard=250, min_symbol_count=7, split_by="scaffold", max_reject_share=0.1,
    )  # fmt: skip


def _bytes(folder):
    """Everything that a data folder holds, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"chunks", "work"} & set(path.parts)
    }


@pytest.fixture(scope="module")
def undisturbed(told, build, tmp_path_factory):
    """The bytes of that table's data folder, made in one go by two processes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "set"
    build(told, folder, workers=2)
    return _bytes(folder)


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


# --- against a few lines in memory ------------------------------------------------------------------------------------


def _split(group):
    key = hashlib.blake2b(group.encode(), digest_size=8, key=b"chemscale-split").digest()
    share = int.from_bytes(key, "big") / 2**64
    return "test" if share < 0.2 else "validation" if share < 0.3 else "train"


def test_the_result_is_that_of_a_dictionary(source, told, build, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(molecules, "UNIT_ROWS", 97)
    monkeypatch.setattr(runs, "PARTITION_ROWS", 100)
    manifest = build(told, tmp_path / "out", chunks=3)

    rejected, kept = Counter(), {}
    for smiles in source[1]:
        made = molecules.convert(smiles, told)
        if isinstance(made, str):
            rejected[made] += 1
        elif made.smiles in kept:
            rejected["duplicate"] += 1
        else:
            kept[made.smiles] = made
    rows = sorted(kept.values(), key=lambda made: _digest(made.smiles))
    groups = [_digest(made.group) for made in rows]
    splits = np.array([_split(group) for group in groups])
    symbols = [list(selfies.split_selfies(made.selfies)) for made in rows]
    counts = Counter(symbol for text, split in zip(symbols, splits, strict=True) if split == "train" for symbol in text)
    vocabulary = SPECIAL + sorted(symbol for symbol, count in counts.items() if count >= 7)
    ids = {symbol: index for index, symbol in enumerate(vocabulary)}
    tokens = [[2, *(ids.get(symbol, 0) for symbol in text), 3] for text in symbols]

    assert rejected["duplicate"] > 150
    assert manifest["rejected"] == rejected
    assert (manifest["rows_in"], manifest["rows_kept"]) == (len(source[1]), len(rows))
    assert manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["rejected"].values())
    table = _shards(tmp_path / "out")
    assert table["row"].tolist() == [_digest(made.smiles) for made in rows]
    assert table["group"].tolist() == groups
    assert table["split"].tolist() == splits.tolist()
    for name in ("smiles", "selfies"):
        assert table[name].tolist() == [getattr(made, name) for made in rows]
    assert read_json(tmp_path / "out" / "tokenizer.json")["vocabulary"] == vocabulary
    assert [found.tolist() for found in table["tokens"]] == tokens
    assert [shard["rows"] for shard in manifest["shards"]] == [250, 250, 250, len(rows) - 750]
    for shard in manifest["shards"]:
        assert hashlib.sha256((tmp_path / "out" / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    for split, stated in manifest["splits"].items():
        mine = np.flatnonzero(splits == split)
        told_rows = "\n".join(_digest(rows[place].smiles) for place in mine)
        assert stated == {
            "rows": len(mine),
            "groups": len({groups[place] for place in mine}),
            "tokens": sum(len(tokens[place]) for place in mine),
            "digest": hashlib.sha256(told_rows.encode()).hexdigest(),
        }
        assert manifest["unknown_tokens"][split] == sum(tokens[place].count(0) for place in mine)
    assert min(manifest["unknown_tokens"].values()) > 0
    assert manifest["elements"].keys() == manifest["splits"].keys()


@pytest.mark.parametrize(("unit", "partition", "chunks"), [(10_000, 10**6, 1), (40, 50, 1), (333, 7, 4), (9, 1000, 2)])
def test_how_the_work_is_cut_changes_no_byte(
    told, undisturbed, build, tmp_path, in_process, monkeypatch, unit, partition, chunks
):
    monkeypatch.setattr(molecules, "UNIT_ROWS", unit)
    monkeypatch.setattr(runs, "PARTITION_ROWS", partition)
    build(told, tmp_path / "set", chunks=chunks)
    assert _bytes(tmp_path / "set") == undisturbed


def test_the_number_of_workers_changes_no_byte(told, undisturbed, build, tmp_path, monkeypatch):
    monkeypatch.setattr(molecules, "UNIT_ROWS", 100)
    monkeypatch.setattr(runs, "PARTITION_ROWS", 200)
    build(told, tmp_path / "set", workers=3)
    assert _bytes(tmp_path / "set") == undisturbed


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition_rows", [10**6, 200, 3])
def test_of_equal_rows_that_of_the_lowest_place_is_kept(tmp_path, monkeypatch, partition_rows):
    monkeypatch.setattr(runs, "PARTITION_ROWS", partition_rows)
    draw = np.random.default_rng(0)
    # digests from end to end of their range, the ends included
    digests = [bytes(16), b"\xff" * 16, *(draw.bytes(16) for _ in range(298))]
    # and some that differ in their last bit alone
    digests += [digest[:-1] + bytes([digest[-1] ^ 1]) for digest in digests[:50]]
    rows = pd.DataFrame({"row": draw.choice(np.array(digests, object), 2000), "place": draw.permutation(2000)})
    rows["from"] = [f"row {place}" for place in rows["place"]]
    paths = []
    for number in range(13):
        part = rows.iloc[number::13]
        table = {"row": pa.array(part["row"], DIGEST), "place": pa.array(part["place"]), "from": pa.array(part["from"])}
        paths.append(run_path(tmp_path, number))
        write_run(paths[-1], pa.table(table), Ledger())
    parts = [merge(paths, partition) for partition in partitions(len(rows))]
    merged = pd.concat([part.to_pandas() for part, _ in parts], ignore_index=True)
    expected = rows.sort_values(["row", "place"]).drop_duplicates("row").reset_index(drop=True)
    pd.testing.assert_frame_equal(merged[["row", "place", "from"]], expected)
    assert sum(copies for _, copies in parts) == len(rows) - len(expected)


def test_partitions_cover_every_digest_once(monkeypatch):
    for rows, number in ((0, 1), (1, 1), (100_000, 1), (100_001, 2), (10**12, 4096)):
        found = partitions(rows)
        assert len(found) == number
        assert (found[0][0], found[-1][1]) == (0, 4096)
        assert all(one[1] == other[0] for one, other in pairwise(found))


def test_frames_that_come_twice_count_as_rejects(write_data, tmp_path):
    rows = [
        {"molecule": "m", "frame": frame, "species": [1, 1], "positions": [0, 0, 0, 0, 0, 0.7 + 0.01 * (frame % 6)],
         "forces": [0.0] * 6, "energy": float(frame), "split": "train", "group": "m"}
        for frame in range(9)
    ]  # fmt: skip
    manifest = write_data(tmp_path / "set", rows, max_reject_share=0.34)
    assert (manifest["rejected"], manifest["rows_kept"]) == ({"duplicate": 3}, 6)
    # the first of them, each time
    assert sorted(_shards(tmp_path / "set")["frame"]) == list(range(6))
    with pytest.raises(DataError, match=r"at most 33\.0% of 9 rows rejected: found 3 \(3 duplicate\)"):
        write_data(tmp_path / "other", rows, max_reject_share=0.33)


# --- what is missing or damaged ---------------------------------------------------------------------------------------


@pytest.fixture
def read(told, read_chunks, tmp_path, in_process, monkeypatch):
    """The folder of the table in 12 runs, and the chunks' records."""
    monkeypatch.setattr(molecules, "UNIT_ROWS", 100)
    folder = tmp_path / "set"
    markers = read_chunks(told, folder, chunks=2)
    return folder, markers, sorted(folder.rglob("run-*.arrow"))


def test_a_missing_run_is_refused_and_read_again(told, read, read_chunks, undisturbed):
    folder, markers, made = read
    assert len(made) == 12
    made[7].unlink()
    with pytest.raises(DataError, match=r"found no run-000007\.arrow of 12 runs; run the data stage again"):
        assemble.prepare(told, folder, markers, "code", 1)
    assert not (folder / "manifest.json").exists()
    # without records the workflow runs the stage again, which makes that run alone
    assert not any(marker.exists() for marker in markers)
    others = {run: run.stat().st_mtime_ns for run in made if run != made[7]}
    assemble.prepare(told, folder, read_chunks(told, folder, chunks=2), "code", 1)
    assert len(others) == 11
    assert _bytes(folder) == undisturbed


def test_only_missing_runs_are_made_again(told, read, read_chunks):
    folder, _, made = read
    made[3].unlink()
    before = {run: run.stat().st_mtime_ns for run in made if run.exists()}
    read_chunks(told, folder, chunks=2)
    assert {run: run.stat().st_mtime_ns for run in made if run != made[3]} == before
    assert made[3].exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_a_damaged_run_is_named(told, read, read_chunks, damage):
    folder, markers, made = read
    content = made[5].read_bytes()
    made[5].write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "other": b"no run at all"}[damage])
    with pytest.raises(DataError, match=r"read .*run-000005\.arrow: found no whole Arrow file"):
        assemble.prepare(told, folder, markers, "code", 1)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(DataError, match=r"run-000005\.arrow"):
        read_chunks(told, folder, chunks=2)
    with pytest.raises(DataError, match=r"run-000005\.arrow"):
        open_arrow(made[5])


def test_a_split_without_rows_is_refused(section, source, build, tmp_path, in_process, monkeypatch):
    told = section(
        kind="molecules", source="file", path=str(source[0]), column="smiles", validation=1e-9, test=0.1,
        max_reject_share=0.1,
    )  # fmt: skip
    with pytest.raises(DataError, match="molecules: rows in train, validation, test: found none in validation"):
        build(told, tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()


# --- killed -----------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from chemscale.data import assemble, molecules, runs
from chemscale.data.pool import ordered_map
from chemscale.io import read_json
molecules.UNIT_ROWS, runs.PARTITION_ROWS = 40, 25
def slowly(tasks):
    for task in tasks:
        time.sleep(0.01)  # no task is so short that a kill would come too late
        yield task
molecules.ordered_map = lambda function, tasks, workers, retry: ordered_map(function, slowly(tasks), workers, retry)
assemble.ordered_map = lambda function, tasks, workers: ordered_map(function, slowly(tasks), workers)
section, located, folder = read_json(Path(sys.argv[1])), read_json(Path(sys.argv[2])), Path(sys.argv[3])
marker = folder / "chunks" / "0of1.json"
if sys.argv[4] == "read":
    molecules.prepare(section, folder, located, "code", (0, 1), 2, marker)
else:
    assemble.prepare(section, folder, [marker], "code", 2)
"""


def _stage(stage, told, source, folder, tmp_path):
    """The command of a stage in a process of its own."""
    from chemscale.io import write_json

    write_json(tmp_path / "section.json", told)
    located = sources.locate(told, tmp_path / "cache", {"offline": True, "mirror": None})
    write_json(tmp_path / "located.json", located)
    files = [str(tmp_path / "section.json"), str(tmp_path / "located.json"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return {"args": [sys.executable, "-c", PROGRAM, *files, stage], "env": environment, "stderr": subprocess.DEVNULL}


def _kill_when(command, folder, pattern, wanted, delay):
    """Start a command; when there are so many files of a pattern, and some more time has passed, kill it."""
    with subprocess.Popen(**command) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and len([*folder.rglob(pattern)]) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "killed before its end"
    # its workers see that their parent is gone; until then they may finish what they write
    time.sleep(0.3)


@pytest.mark.slow
def test_killed_at_any_moment_both_stages_end_with_the_same_bytes(told, source, undisturbed, tmp_path):
    folder = tmp_path / "set"
    draw = random.Random(1)

    command = _stage("read", told, source, folder, tmp_path)
    made = 0
    for more in (1, 9, 12):
        _kill_when(command, folder, "run-*.arrow", made + more, draw.uniform(0, 0.03))
        found = [*folder.rglob("run-*.arrow")]
        made = len(found)
        assert not (folder / "chunks" / "0of1.json").exists()
        # whatever has a run's name is a whole one
        assert {runs.read_ledger(run).rows_in for run in found} <= {40, len(source[1]) % 40}
    assert 22 <= made < 28
    subprocess.run(**command, check=True)
    assert len([*folder.rglob("run-*.arrow")]) == -(-len(source[1]) // 40)

    command = _stage("assemble", told, source, folder, tmp_path)
    for pattern, wanted in (("merged-*.arrow", 2), ("merged-*.arrow", 40), ("shard-*.json", 1)):
        _kill_when(command, folder, pattern, wanted, draw.uniform(0, 0.02))
        assert not (folder / "manifest.json").exists()
    subprocess.run(**command, check=True)
    assert _bytes(folder) == undisturbed


def test_what_another_code_began_is_not_gone_on_with(told, read, undisturbed, monkeypatch):
    folder, markers, _ = read
    merge_rows = assemble.merge

    def one_row_less(*arguments):
        table, copies = merge_rows(*arguments)
        return table.slice(1), copies

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    for code, other in (("older code", one_row_less), ("code", merge_rows)):
        with monkeypatch.context() as patched:
            patched.setattr(assemble, "merge", other)
            patched.setattr(assemble, "write_manifest", stop)
            with pytest.raises(KeyboardInterrupt):
                assemble.prepare(told, folder, markers, code, 1)
    assemble.prepare(told, folder, markers, "code", 1)
    assert _bytes(folder) == undisturbed


@pytest.mark.parametrize("moment", ["move the shards", "take records away", "save", "write_manifest"])
def test_cut_at_any_step_of_the_end_nothing_half_is_taken_for_whole(
    told, read, read_chunks, undisturbed, monkeypatch, moment
):
    folder, markers, _ = read
    # data of before, of which nothing may stay
    (folder / "shards").mkdir()
    (folder / "shards" / "shard-99999.parquet").write_text("old")
    (folder / "manifest.json").write_text("old")

    def cut_at(owner, name, applies=lambda *arguments: True):
        function = getattr(owner, name)

        def cut(*arguments, **options):
            if applies(*arguments):
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return owner, name, cut

    place = {
        "move the shards": cut_at(Path, "rename"),
        "take records away": cut_at(Path, "unlink", lambda path: path.parent == folder / "shards"),
        "save": cut_at(Tokenizer, "save"),
        "write_manifest": cut_at(assemble, "write_manifest"),
    }[moment]
    with monkeypatch.context() as patched:
        patched.setattr(*place)
        with pytest.raises(KeyboardInterrupt):
            assemble.prepare(told, folder, markers, "code", 1)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_manifest(folder)
    assemble.prepare(told, folder, markers, "code", 1)
    assert _bytes(folder) == undisturbed
