"""Where a cell failed, from what it left behind."""

import os
import signal
import subprocess
import sys

import pytest

from chemscale.errors import LockedError
from chemscale.io import write_json
from chemscale.locks import held, is_held
from chemscale.planning.due import KILLED, failure_of


def test_the_reason_of_a_failure_follows_from_the_files(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    assert failure_of(tmp_path) is None
    write_json(checkpoint / "attempts.json", {"attempts": 1})
    assert failure_of(tmp_path) == KILLED
    write_json(checkpoint / "step-000000010" / "complete.json", {})
    assert failure_of(tmp_path) is None, "it goes on from its checkpoint"
    write_json(checkpoint / "failure.json", {"reason": "loss is not finite", "attempts": 1})
    assert failure_of(tmp_path) == "loss is not finite"
    (checkpoint / "failure.json").write_text("{")
    assert "damaged" in failure_of(tmp_path)


def test_a_lock_is_held_by_one_and_seen_by_others(tmp_path):
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with held(lock, "the work is being done"):
        assert is_held(lock)
        with (
            pytest.raises(LockedError, match="the work is being done by another process"),
            held(lock, "the work is being done"),
        ):
            pass
    assert not is_held(lock)


def test_a_killed_holder_leaves_no_lock(tmp_path):
    lock = tmp_path / "lock"
    code = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    holder = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert is_held(lock)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert not is_held(lock)
