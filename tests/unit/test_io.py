"""Atomic writes, digests, and errors for damaged files."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.errors import DataError, DiskFullError, InputError, RecordError
from chemscale.io import (
    atomic_path,
    digest,
    drop_unfinished,
    open_parquet,
    open_regular,
    read_bytes,
    read_json,
    read_json_lines,
    read_parquet,
    read_text,
    regular_file,
    sha256_file,
    write_json,
    write_parquet,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


_DYING_WRITER = """
import signal, sys
from pathlib import Path
import safetensors.torch, torch
from chemscale.io import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    signal.setitimer(signal.ITIMER_REAL, 0.02)  # ends the process while it writes
    while True:
        safetensors.torch.save_file({"x": torch.zeros(4_000_000)}, temporary)
"""


def test_what_a_killed_writer_of_tensors_left_is_dropped(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")
    for _ in range(5):
        died = subprocess.run([sys.executable, "-c", _DYING_WRITER, str(path)], check=False)
        assert died.returncode == -signal.SIGALRM
    left = [child.name for child in tmp_path.iterdir()]
    assert any(name.endswith(".part") for name in left)
    assert any(name.startswith(".tmp") for name in left)
    drop_unfinished(tmp_path, "other")
    assert len(list(tmp_path.iterdir())) > 5
    drop_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_json_is_canonical_and_finite(tmp_path):
    assert digest({"b": 1, "a": [1.5, None]}) == hashlib.sha256(b'{"a":[1.5,null],"b":1}').hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=r"m\.json"):
        read_json(path)


def test_parquet_round_trip_and_damage(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"x": [1.0, 2.0]}), {"unit": "eV"})
    assert read_parquet(path).schema.metadata[b"unit"] == b"eV"
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordError, match=r"t\.parquet"):
        read_parquet(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_with_folder_and_need(tmp_path):
    path = tmp_path / "folder" / "table.bin"
    write_text(path, "before")

    def write():
        with atomic_path(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(bytes(100_000))

    with pytest.raises(DiskFullError, match=rf"write {path}: found no space left in {path.parent} .*free some space"):
        write()
    assert path.read_text() == "before"
    assert [child.name for child in path.parent.iterdir()] == ["table.bin"]


def test_other_errors_of_writing_are_left_as_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "x"):
        raise PermissionError(13, "not yours")


@pytest.fixture
def no_file(tmp_path):
    """A function that makes something that is no regular file, and gives its path."""
    held = []

    def make(kind):
        path = tmp_path / kind
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            held.append(socket.socket(socket.AF_UNIX))
            held[0].bind(str(path))
        elif kind == "folder":
            path.mkdir()
        elif kind == "link to a device":
            path.symlink_to("/dev/zero")
        elif kind == "link to a fifo":
            os.mkfifo(tmp_path / "target")
            path.symlink_to("target")
        elif kind == "link to nothing":
            path.symlink_to("target")
        elif kind == "link to itself":
            path.symlink_to(path)
        elif kind == "name with NUL":
            path = tmp_path / "a\0b"
        elif kind == "long name":
            path = tmp_path / ("x" * 5000)
        elif kind == "name in a file":
            (tmp_path / "file").touch()
            path = tmp_path / "file" / "x"
        return path

    yield make
    for opened in held:
        opened.close()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("missing", "no such file"),
        ("fifo", "a FIFO, which is no regular file"),
        ("socket", "a socket, which is no regular file"),
        ("folder", "a folder, which is no regular file"),
        ("link to a device", "a device behind a link, which is no regular file"),
        ("link to a fifo", "a FIFO behind a link, which is no regular file"),
        ("link to nothing", "a link to nothing"),
        ("link to itself", "no readable file (Too many levels of symbolic links)"),
        ("name with NUL", "a name that no file can have"),
        ("long name", "no readable file (File name too long)"),
        ("name in a file", "no readable file (Not a directory)"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_never_waited_for(no_file, kind, found):
    path = no_file(kind)
    for read in (regular_file, read_bytes, sha256_file, lambda path: open_regular(path).__enter__()):
        with pytest.raises(InputError) as error:
            read(path)
        assert error.value.found == found
        assert error.value.asked.startswith("read /")
    for read in (read_json, read_json_lines, read_parquet):
        with pytest.raises(RecordError) as error:
            read(path)
        assert error.value.found == found


def test_a_regular_file_may_lie_behind_a_link(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").symlink_to("a")
    assert regular_file(tmp_path / "b") == tmp_path / "b"
    assert read_text(tmp_path / "b") == "text"


def test_a_file_that_becomes_a_fifo_while_it_is_opened_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("chemscale.io.regular_file", lambda path, error, do: path)
    with pytest.raises(DataError, match="a FIFO"), open_regular(tmp_path / "a", DataError):
        pass


def test_a_file_without_an_end_is_read_up_to_the_limit(tmp_path):
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, 2**40)
    for read in (read_text, read_json, read_json_lines):
        with pytest.raises(InputError, match=r"sparse: found more than [\d,]+ bytes"):
            read(sparse)
    for flood in ("[" + "[]," * 2**20 + "0]", '{"a":' + "[" + "0," * 2**21 + "0]}"):
        (tmp_path / "flood").write_text(flood)
        with pytest.raises(RecordError, match="flood: found more than 1,048,576 values"):
            read_json(tmp_path / "flood", max_bytes=2**23)
    assert read_bytes(Path("/proc/self/cmdline")).startswith(sys.orig_argv[0].encode())
    (tmp_path / "ten").write_text("1234567890")
    assert read_bytes(tmp_path / "ten", max_bytes=10) == b"1234567890"
    with pytest.raises(InputError, match="more than 9 bytes, the limit"):
        read_bytes(tmp_path / "ten", max_bytes=9)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('[{"b": {"a": 1, "c": 2, "a": 1}}]', "the key 'a' stands twice"),
        ("NaN", "'NaN' is not finite"),
        ('{"a": [Infinity]}', "'Infinity' is not finite"),
        ("-Infinity", "'-Infinity' is not finite"),
        ("1e999", "'1e999' is not finite"),
        ("1" * 5000, "a number of 5,000 digits"),
        ('{"a": 1} {"a": 1}', "Extra data"),
        ("[1, 2", "no valid JSON"),
        ("[" * 101 + "]" * 101, "more than 100 deep"),
        ("[" * 100_000, "more than 100 deep"),
        ('{"a":' * 100_000, "more than 100 deep"),
        ("\ufeff{}", "no valid JSON"),
        ('"a\nb"', "no valid JSON"),
    ],
)
def test_json_is_strict(tmp_path, text, found):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=rf"read {path}: found .*{found}.*; delete it") as error:
        read_json(path)
    assert len(str(error.value)) < 500
    (tmp_path / "m.jsonl").write_text("{}\n" + text.replace("\n", ""))
    if "\n" not in text:
        with pytest.raises(RecordError, match=rf"m\.jsonl, line 2: found .*{found}"):
            read_json_lines(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "value",
    [None, 0, -1.5, "", "ü\u2028", [], {}, {"a": [1e300, 10**299, {"b": None}]}, json.loads("[" * 100 + "]" * 100)],
)
def test_json_that_the_project_writes_is_read(tmp_path, value):
    write_json(tmp_path / "m.json", value)
    assert read_json(tmp_path / "m.json") == value


def test_json_lines_are_read(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"a": 1}\n[2]\n')
    assert read_json_lines(tmp_path / "m.jsonl") == [{"a": 1}, [2]]


def _bomb(path, kind):
    """A small Parquet file that unfolds to gigabytes."""
    if kind == "equal numbers":
        table = pa.table({"x": pa.array(np.zeros(2**22)), "y": pa.array(np.zeros(2**22))})
        pq.write_table(pa.concat_tables([table] * 8), path, compression="zstd")
    elif kind == "one long text":
        codes = pa.array(np.zeros(100_000, dtype=np.int32))
        text = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 100_000]))
        pq.write_table(pa.table({"x": text}), path, compression="zstd", store_schema=False)
    elif kind == "compressed text":
        pq.write_table(pa.table({"x": ["x" * 10**6 + str(row) for row in range(300)]}), path, compression="zstd")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("equal numbers", "a table of 536,870,912 bytes in memory"),
        ("one long text", "a table of 10,000"),
        ("compressed text", "a table of 300,"),
    ],
)
def test_a_small_parquet_file_does_not_fill_memory(tmp_path, kind, found):
    path = tmp_path / "t.parquet"
    # made and read in processes of their own, whose peak memory is known
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import resource, test_io; "
    subprocess.run([sys.executable, "-c", f"{start}test_io._bomb({str(path)!r}, {kind!r})"], check=True)
    assert path.stat().st_size < 2_000_000
    read = f"{start}test_io._read_bomb({str(path)!r}, {found!r})"
    peak = subprocess.run([sys.executable, "-c", read], check=True, capture_output=True, text=True).stdout
    assert int(peak) < 400 * 1024  # KiB; pyarrow and its neighbours alone take 150 MB


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.ListArray.from_arrays([0, 2**18], pa.array(np.zeros(2**18, np.int8))), "a table of 2,097,152 bytes"),
        (pa.ListArray.from_arrays([0, 300], pa.array(["x" * 10_000] * 300)), "a table of 3,0"),
        (pa.StructArray.from_arrays([pa.array(["x" * 10_000] * 300)], ["a"]), "text in a column of type struct"),
        (pa.array([b"x" * 10_000] * 300, pa.binary(10_000)), "a table of 3,000,000 bytes"),
    ],
)
def test_a_nested_or_wide_column_is_counted(tmp_path, column, found):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": column}), path, compression="zstd")
    with pytest.raises(RecordError, match=found):
        read_parquet(path, max_bytes=2**20)
    assert read_parquet(path)["x"].combine_chunks().equals(column)


def _read_bomb(path, found):
    with pytest.raises(RecordError, match=found):
        read_parquet(path)
    # ru_maxrss would begin with the memory of the process that started this one
    print(*re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()))


def test_text_that_repeats_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "cell": pa.array([None if row % 7 == 0 else f"cells/{row % 3}" + "x" * 400 for row in range(5000)]),
            "bytes": pa.array([b"abc", None] * 2500),
            "large": pa.array(["abc"] * 5000, type=pa.large_string()),
            "x.y": pa.array([["abc" * 100, None], None, [], ["d"], ["abc" * 100] * 9] * 1000),
            "x": pa.array(range(5000)),
        }
    )
    write_parquet(path, table, {"unit": "eV"})
    for limit in (2**23, 2**28):  # counted, and known beforehand
        read = read_parquet(path, max_bytes=limit)
        assert read.equals(table)
        assert read.schema.equals(pq.read_table(path, partitioning=None).schema, check_metadata=True)
        assert read_parquet(path, ["x", "cell"], max_bytes=limit).equals(table.select(["x", "cell"]))


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda path, good: path.write_bytes(b""), "does not begin and end"),
        (lambda path, good: path.write_bytes(b"a,b\n1,2\n"), "does not begin and end"),
        (lambda path, good: path.write_bytes(good[:-1]), "does not begin and end"),
        (lambda path, good: path.write_bytes(good[:-8] + b"\xff\xff\xff\x7fPAR1"), "a footer of 2,147,483,647 bytes"),
        (
            lambda path, good: path.write_bytes(b"PAR1" + bytes(2**25) + (2**25).to_bytes(4, "little") + b"PAR1"),
            "a footer",
        ),
        (lambda path, good: path.write_bytes(b"PAR1" + bytes(100) + b"\x40\0\0\0PAR1"), "no readable Parquet"),
        (lambda path, good: path.write_bytes(good[:4] + bytes(40) + good[44:]), "no readable Parquet"),
        (
            lambda path, good: pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"]), path),
            "the column 'a' twice",
        ),
    ],
)
def test_a_damaged_or_foreign_parquet_file_is_named(tmp_path, write, found):
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"x": [1.0, 2.0]}))
    write(path, path.read_bytes())
    with pytest.raises(RecordError, match=rf"read {path}: found .*{found}"):
        read_parquet(path)
    with (
        pytest.raises(DataError, match=rf"read {path}: found .*{found}.*; look"),
        open_parquet(path, DataError, "look") as file,
    ):
        file.read()


def test_a_column_that_a_table_has_not_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"x": [1.0, 2.0]}))
    with pytest.raises(RecordError, match="no column 'y'"):
        read_parquet(path, ["x", "y"])


def test_a_full_disk_beside_a_table_is_not_the_tables_fault(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"x": [1.0, 2.0]}))
    with pytest.raises(OSError, match="No space"), open_parquet(path):
        raise OSError(28, "No space left on device")
