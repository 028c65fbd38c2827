"""A full disk is told by name, leaves nothing half that passes for whole, and costs no work that was done."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chemscale.data import assemble, molecules, prepare_arrays, prepare_subsets, runs
from chemscale.data.arrays import load_language
from chemscale.data.manifest import read_manifest
from chemscale.errors import ChemscaleError, DataError, DiskFullError

SMOKE = Path(__file__).parents[2] / "data" / "smoke_molecules.csv"
SIZE = 2 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB in memory; a test without the right to mount one is skipped."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of a small size takes the right to mount one")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def _fill(mount, left):
    """Leave so many bytes of a disk; the file that takes the others."""
    filler = mount / "filler"
    space = os.statvfs(mount)
    filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - left)))
    return filler


def _bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "chunks" not in path.parts
    }


@pytest.fixture
def told(section, monkeypatch):
    monkeypatch.setattr(molecules, "UNIT_ROWS", 80)
    monkeypatch.setattr(runs, "PARTITION_ROWS", 100)
    return section(
        kind="molecules", source="file", path=str(SMOKE), column="smiles", validation=0.1, test=0.2, rows_per_shard=200
    )  # fmt: skip


def test_both_stages_and_arrays_end_by_name_and_go_on_when_there_is_space(
    told, small_disk, build, read_chunks, tmp_path, in_process
):
    build(told, tmp_path / "undisturbed" / "set")
    prepare_arrays.prepare(tmp_path / "undisturbed" / "set")
    prepare_subsets.prepare(tmp_path / "undisturbed" / "set", "set", 0, 100)
    folder = small_disk / "set"
    full = rf"write {folder}.*: found no space left in .*bytes: free some space"

    # room for some runs, and not for all
    filler = _fill(small_disk, 120_000)
    with pytest.raises(DiskFullError, match=full):
        read_chunks(told, folder)
    made = sorted(folder.rglob("run-*.arrow"))
    assert 0 < len(made) < 8
    assert all(runs.read_ledger(run).rows_in == 80 for run in made)
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob("*.json"))
    filler.unlink()
    times = {run: run.stat().st_mtime_ns for run in made}
    markers = read_chunks(told, folder)
    assert {run: run.stat().st_mtime_ns for run in made} == times, "what was done is not done again"

    # 60 kB more each time: each attempt goes on where the one before had to stop
    failures = 0
    while True:
        filler = _fill(small_disk, 60_000)
        try:
            assemble.prepare(told, folder, markers, "code", 1)
            break
        except DiskFullError as error:
            assert re.match(full, str(error))  # noqa: PT017
            failures += 1
        with pytest.raises(DataError, match=r"no manifest\.json"):
            read_manifest(folder)
        assert not list(folder.rglob("*.part"))
        filler.unlink()
    filler.unlink()
    assert 2 <= failures < 10

    shutil.rmtree(folder / "work")  # as this stage does, which makes some room
    filler = _fill(small_disk, 20_000)
    with pytest.raises(DiskFullError, match=full):
        prepare_arrays.prepare(folder)
    with pytest.raises(DataError, match=r"no arrays\.json"):
        load_language(folder)
    filler.unlink()
    prepare_arrays.prepare(folder)

    filler = _fill(small_disk, 0)
    with pytest.raises(DiskFullError, match=full):
        prepare_subsets.prepare(folder, "set", 0, 100)
    assert not list(folder.rglob("n100.parquet"))
    filler.unlink()
    prepare_subsets.prepare(folder, "set", 0, 100)
    assert _bytes(folder) == _bytes(tmp_path / "undisturbed" / "set")


def test_a_workers_full_disk_is_told_by_its_parent(told, small_disk, read_chunks):
    _fill(small_disk, 20_000)
    with pytest.raises(DiskFullError, match=r"run-0000\d\d\.arrow: found no space left in .*/small/set/work/"):
        read_chunks(told, small_disk / "set", workers=2)


def test_a_disk_without_any_room_is_told(told, small_disk, read_chunks, in_process):
    _fill(small_disk, 0)
    with pytest.raises(ChemscaleError, match="no space left"):
        read_chunks(told, small_disk / "set")
