"""Work in single-threaded processes, in the order of its tasks: how many they are never changes what comes out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from chemscale.errors import ChemscaleError

Task = TypeVar("Task")
Result = TypeVar("Result")

# numerical libraries read these once, when they are loaded: two threads give other bits than one, and are slower here
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# the item of the task that this worker process is at, where its parent can read it
_item: Any = None


def begin_item(number: int, seconds: float) -> None:
    """Say in a worker that it begins item `number` of its task, which may take so many seconds of processor time.

    Then the process is killed, C++ code and all, and `ordered_map` asks its `retry` what to do. Processor time, unlike
    time on the clock, does not depend on what else the machine does.
    """
    if _item is not None:
        _item.value = number
    signal.setitimer(signal.ITIMER_PROF, seconds)


def end_items() -> None:
    """Say in a worker that no item of its task is left: no limit holds any more."""
    signal.setitimer(signal.ITIMER_PROF, 0)


class _Worker:
    """A process that works out one task at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.item = context.RawValue("q", -1)
        self.process = context.Process(target=_serve, args=(function, theirs, self.item), daemon=True)
        with _workers_environment():
            self.process.start()
        theirs.close()
        self.place = -1
        self.task: Any = None

    def begin(self, place: int, task: Any) -> None:
        self.place, self.task = place, task
        self.item.value = -1
        self.connection.send(task)

    def result(self) -> tuple[bool, Any] | None:
        """Whether the task went well, and its result or error; None where the process has ended."""
        try:
            outcome: tuple[bool, Any] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def ordered_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    retry: Callable[[Task, int], Task] | None = None,
) -> Iterator[Result]:
    """`function` of each task, in the order of the tasks, worked out by `workers` new processes of one thread each.

    `function` is a module's own (processes find it by its name). They are new processes even for one worker, since only
    a new process is certain to have loaded no numerical library with more threads. Tasks are taken as they are needed:
    never more than a few for each worker wait, or have results that wait.

    Args:
        function: takes a task; it may call `begin_item` for each of the task's items.
        tasks: any stream of tasks.
        workers: the number of processes; never more than there are tasks.
        retry: given a task and the item at which it exceeded its time limit, the task to work out in its place.

    Raises:
        ChemscaleError: a process was killed, for instance for want of memory.
        Exception: whatever `function` raised, at the task that raised it; the tasks after it are given up.
    """
    waiting = enumerate(iter(tasks))
    again: deque[tuple[int, Any]] = deque()
    team: list[_Worker] = []
    idle: list[_Worker] = []
    finished: dict[int, tuple[bool, Any]] = {}
    ahead = 2 * workers + 2
    following = 0
    more = True
    try:
        while True:
            while again or (more and len(finished) + len(team) - len(idle) < ahead and (idle or len(team) < workers)):
                if not again:
                    try:
                        again.append(next(waiting))
                    except StopIteration:
                        more = False
                        break
                if not idle:
                    idle.append(_Worker(function))
                    team.append(idle[-1])
                idle.pop().begin(*again.popleft())
            busy = {worker.connection: worker for worker in team if worker not in idle}
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                outcome = worker.result()
                if outcome is not None:
                    finished[worker.place] = outcome
                    idle.append(worker)
                    continue
                team.remove(worker)
                worker.stop()
                if worker.process.exitcode != -signal.SIGPROF or retry is None:
                    raise ChemscaleError(
                        f"a worker process of {function.__module__} was killed, perhaps for want of memory; "
                        "use fewer workers"
                    )
                again.append((worker.place, retry(worker.task, worker.item.value)))
            while following in finished:
                succeeded, result = finished.pop(following)
                if not succeeded:
                    raise result
                following += 1
                # a result that was handed on is not kept
                yield result
    finally:
        for worker in team:
            worker.stop()


def _serve(function: Callable[[Any], Any], connection: Connection, item: Any) -> None:
    """What a worker process does: tasks from its parent, one by one, until the parent ends it or ends."""
    global _item
    _item = item
    # an interruption from the keyboard reaches all processes: the parent ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    while True:
        task = connection.recv()
        try:
            outcome = (True, function(task))
        except Exception as error:
            outcome = (False, error)
        connection.send(outcome)


@contextmanager
def _workers_environment() -> Iterator[None]:
    """While this is open, new processes get one thread and don't run this process's script a second time.

    A spawned process imports the script that its parent was started with, under another name. The workflow's scripts
    are not written to be imported, and no task needs them; behind an empty main module they are not seen.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    os.environ.update(_ONE_THREAD)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """Let this worker end when its parent is killed: in the midst of a task it would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
