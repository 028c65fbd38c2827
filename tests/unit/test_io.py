"""Atomic writes, digests, and errors for damaged files."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from chemscale.errors import DiskFullError, RecordError
from chemscale.io import (
    atomic_path,
    digest,
    drop_unfinished,
    read_json,
    read_parquet,
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
