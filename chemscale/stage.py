"""What every stage of the workflow shares: its output goes to its log, and a user's error ends as one message."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chemscale.errors import MAX_SHOWN, ChemscaleError, shown

_SECONDS_BETWEEN = 30


class _NowAndThen(logging.Handler):
    """Passes on what a long stage says of its progress, at most once in half a minute."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell, self._told = tell, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the message on, where the last one is long enough ago."""
        if time.monotonic() - self._told >= _SECONDS_BETWEEN:
            self._told = time.monotonic()
            self._tell(record.getMessage())


@contextmanager
def logged(log: str) -> Iterator[None]:
    """Everything that the block prints, C and Fortran code included, goes to the file `log`.

    A `ChemscaleError` ends the process with the error's exit code and one message on the terminal; any other error
    with code 1, its traceback in the log and one line on the terminal.
    """
    terminal, begun = os.dup(1), time.monotonic()
    # evaluate/cells/chemgpt/w8/n60/seed0, or the stage and what it works on
    name = log.rpartition("/logs/")[2].removeprefix("data/").removesuffix(".log")

    def tell(line: str) -> None:
        os.write(terminal, f"{time.strftime('%H:%M:%S')} {name}: {line}\n".encode())

    tell("started")
    with open(log, "w", encoding="utf-8") as stream:
        sys.stdout.flush()
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("chemscale.progress").addHandler(_NowAndThen(tell))
        try:
            yield
            sys.stdout.flush()
            tell(f"done in {time.monotonic() - begun:.0f} s")
        except Exception as error:
            traceback.print_exc()
            sys.stdout.flush()
            known = isinstance(error, ChemscaleError)
            tell(shown(f"failed: {error if known else f'{type(error).__name__}: {error}'} (log: {log})", 4 * MAX_SHOWN))
            sys.exit(error.exit_code if isinstance(error, ChemscaleError) else 1)
