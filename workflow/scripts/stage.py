"""What every shim shares: the stage's output goes to its log, and a user's error ends as one message."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from chemscale.errors import ChemscaleError


@contextmanager
def logged(log: str) -> Iterator[None]:
    """Everything that the block prints, C and Fortran code included, goes to the file `log`.

    A `ChemscaleError` ends the process with the error's exit code and one message on the terminal; any other error
    with code 1, its traceback in the log and one line on the terminal.
    """
    terminal = os.dup(2)
    with open(log, "w", encoding="utf-8") as stream:
        sys.stdout.flush()
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
            sys.stdout.flush()
        except Exception as error:
            traceback.print_exc()
            sys.stdout.flush()
            known = isinstance(error, ChemscaleError)
            message = str(error) if known else f"{type(error).__name__}: {error}; the log is {log}"
            os.write(terminal, f"chemscale: {message}\n".encode())
            sys.exit(error.exit_code if isinstance(error, ChemscaleError) else 1)
