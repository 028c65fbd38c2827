"""Atomic writes, digests, and errors for damaged files."""

import hashlib

import pyarrow as pa
import pytest

from chemscale.errors import RecordError
from chemscale.io import atomic_path, digest, read_json, read_parquet, sha256_file, write_json, write_parquet


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
