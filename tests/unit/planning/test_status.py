"""Where a cell stands, told from what it left behind."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from chemscale.io import write_json
from chemscale.planning.status import cell_state


def test_states_follow_from_the_files(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    assert cell_state(tmp_path) == ("waiting", None)
    write_json(checkpoint / "attempts.json", {"attempts": 1})
    assert cell_state(tmp_path)[0] == "failed"
    assert "killed" in cell_state(tmp_path)[1]
    write_json(checkpoint / "step-000000010" / "complete.json", {})
    assert cell_state(tmp_path) == ("waiting", None)
    write_json(checkpoint / "failure.json", {"reason": "loss is not finite", "attempts": 1})
    assert cell_state(tmp_path) == ("failed", "loss is not finite")
    (checkpoint / "failure.json").write_text("{")
    assert cell_state(tmp_path)[0] == "failed"
    write_json(checkpoint / "finished" / "complete.json", {})
    assert cell_state(tmp_path) == ("done", None)


def test_a_held_lock_is_a_running_cell(tmp_path):
    lock = tmp_path / "checkpoint" / "lock"
    lock.parent.mkdir()
    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert cell_state(tmp_path) == ("running", None)
    assert cell_state(tmp_path) == ("waiting", None)


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_a_killed_holder_leaves_no_lock(tmp_path, number):
    lock = tmp_path / "checkpoint" / "lock"
    lock.parent.mkdir()
    code = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    holder = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert cell_state(tmp_path)[0] == "running"
    os.kill(holder.pid, number)
    holder.wait()
    holder.stdout.close()
    assert cell_state(tmp_path)[0] == "waiting"
