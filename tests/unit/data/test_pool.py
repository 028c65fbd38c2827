"""Worker processes: one thread each, in order, from any script, and none that outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chemscale.data.pool import begin_item, end_items, ordered_map
from chemscale.errors import ChemscaleError, DataError


def test_results_come_in_the_order_of_tasks_from_processes_of_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(ordered_map(os.getenv, ["OMP_NUM_THREADS", "NO_SUCH_NAME", "OPENBLAS_NUM_THREADS"], 2)) == [
        "1",
        None,
        "1",
    ]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_script_without_a_guard_can_use_it(tmp_path):
    # as the workflow's shims do: spawned processes must not run the script again
    script = tmp_path / "shim.py"
    script.write_text(
        "import math\nfrom chemscale.data.pool import ordered_map\nprint(list(ordered_map(math.sqrt, [4, 9], 2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("[2.0, 3.0]\n", "")


def test_a_killed_worker_is_an_error_and_no_hang():
    with pytest.raises(ChemscaleError, match="was killed"):
        list(ordered_map(os._exit, [3], 1))


def _running(marker: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in environment and state != "Z":
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    marker = f"CHEMSCALE_TEST_MARK={tmp_path.name}-{os.getpid()}"
    code = "import time; from chemscale.data.pool import ordered_map; list(ordered_map(time.sleep, [100, 100], 2))"
    name, value = marker.split("=")
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, name: value}) as parent:
        deadline = time.monotonic() + 30
        while len(_running(marker)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        # the parent and two workers; multiprocessing may have a process of its own
        assert len(_running(marker)) >= 3
        parent.send_signal(signal.SIGKILL)
    while _running(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _running(marker) == []


def _spin(task: tuple[int, ...]) -> tuple[int, ...]:
    """The task itself; item 7 takes for ever."""
    for item in task:
        begin_item(item, 0.2)
        while item == 7:
            pass
    end_items()
    return task


def test_an_item_beyond_its_limit_is_left_out_and_the_rest_worked_out():
    over: list[int] = []

    def retry(task: tuple[int, ...], item: int) -> tuple[int, ...]:
        over.append(item)
        return tuple(number for number in task if number != item)

    tasks = [(1, 2), (3, 7, 4), (5,), (7,), (8, 9)]
    assert list(ordered_map(_spin, tasks, 2, retry)) == [(1, 2), (3, 4), (5,), (), (8, 9)]
    assert over == [7, 7]


def test_tasks_are_taken_as_they_are_needed():
    taken = 0

    def tasks():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = ordered_map(abs, tasks(), 2)
    assert next(results) == 0
    assert taken <= 10
    results.close()


def test_an_error_of_a_task_arrives_whole():
    with pytest.raises(DataError, match="asked: found found; do") as caught:
        list(ordered_map(_refuse, [1], 1))
    assert caught.value.do == "do"


def _refuse(task: int) -> None:
    raise DataError("asked", "found", "do")
