"""Starting a cell: in this process, as several ranks on this machine, or as one of the ranks of torchrun or srun.

`python -m chemscale.training.launch JOB` is what the workflow runs for a cell: JOB is the arguments of `main` as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from chemscale.errors import InputError, Stopped
from chemscale.training import run
from chemscale.training.ranks import launched

# seconds that the others get to end by themselves when one rank has failed
_GRACE = 60.0


def main(cell: dict[str, Any], **job: Any) -> None:
    """Train one cell as a job of its own, by as many ranks as its engine names; arguments as `run.main`.

    A process that torchrun or srun started is one of these ranks. Otherwise the process ends with the first exit code
    of a rank that is neither 0 nor 75, with 75 where all were stopped.

    Raises:
        InputError: torchrun or srun started another number of ranks.
    """
    ranks = cell["engine"]["ranks"]
    if launched():
        started = int(os.environ["WORLD_SIZE"])
        if started != ranks:
            raise InputError(
                f"train with {started} ranks",
                f"a cell whose engine names {ranks}",
                f"start {ranks}, or change its engine",
            )
        _end_as(cell=cell, **job)
    if ranks == 1:
        run.main(cell, **job)
        return
    codes = _start(json.dumps({"cell": cell, **job}), ranks)
    failed = [code for code in codes if code not in (0, Stopped.exit_code)]
    code = failed[0] if failed else max(codes)
    if code:
        sys.exit(code if code > 0 else 1)


def _start(job: str, ranks: int) -> list[int]:
    """Run all ranks to their end; their exit codes in the order in which they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    team = []
    for rank in range(ranks):
        environment = {**os.environ, **address, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        # by its name: where this module is what runs, __name__ is another one
        command = [sys.executable, "-m", "chemscale.training.launch"]
        team.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True))

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in team:
            process.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for process in team:
            assert process.stdin is not None
            # the pipe stays open: that it ends tells a rank that this process is gone
            process.stdin.write(job + "\n")
            process.stdin.flush()
        return _wait(team)
    finally:
        for process in team:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for number, handler in former.items():
            signal.signal(number, handler)


def _wait(team: list[subprocess.Popen[str]]) -> list[int]:
    codes: list[int] = []
    running = list(team)
    deadline = None
    while running:
        for process in list(running):
            code = process.poll()
            if code is not None:
                running.remove(process)
                codes.append(code)
                if code and deadline is None:
                    deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(0.02)
    return codes


def _rank() -> None:
    """What each rank runs: the job that its standard input tells."""
    job = json.loads(sys.stdin.readline())

    def end_with_launcher() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=end_with_launcher, daemon=True).start()
    _end_as(**job)


def _end_as(**job: Any) -> NoReturn:
    """Run a rank and end the process with its exit code.

    Not by the interpreter's own end, in which gloo's threads were seen to abort a process whose work was done.
    """
    code = 1
    try:
        run.main(**job)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(**json.loads(sys.argv[1]))
    else:
        _rank()
