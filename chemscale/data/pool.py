"""Work in single-threaded processes, in the order of its tasks: how many they are never changes what comes out."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from chemscale.errors import ChemscaleError

Task = TypeVar("Task")
Result = TypeVar("Result")

# numerical libraries read these once, when they are loaded: two threads give other bits than one, and are slower here
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def ordered_map(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """`function` of each task, in the order of the tasks, worked out by `workers` new processes of one thread each.

    `function` is a module's own (processes find it by its name). They are new processes even for one worker, since only
    a new process is certain to have loaded no numerical library with more threads.

    Raises:
        ChemscaleError: a process was killed, for instance for want of memory.
        Exception: whatever `function` raised, at the task that raised it; the tasks after it are given up.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(tasks))), mp_context=context, initializer=_end_with_parent)
    try:
        with _workers_environment():
            futures: deque[Future[Result]] = deque(pool.submit(function, task) for task in tasks)
        # a result that was handed on is not kept
        while futures:
            yield futures.popleft().result()
    except BrokenProcessPool:
        raise ChemscaleError(
            f"a worker process of {function.__module__} was killed, perhaps for want of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
    """Let this worker end when its parent is killed: it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
