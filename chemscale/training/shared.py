"""Steps that cells share: a run on more samples goes on from the state that one on fewer left before its decay.

Such a state saves time and nothing else: without it the cell makes the same steps itself, to the same bits. So none is
waited for, and whichever is missing, damaged or held by another process is done without.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from chemscale.errors import LockedError
from chemscale.grid import Cell
from chemscale.io import atomic_path
from chemscale.training.checkpoint import Checkpoint
from chemscale.training.metrics import whole_lines

KIND = "shared"


class SharedSteps:
    """The folder in which the cells of one size and seed leave their states for those on more samples."""

    def __init__(self, cell: Cell, root: Path, identity: dict[str, str], log: logging.Logger) -> None:
        """`identity`: the digests that decide the bits of the shared steps, by name."""
        self.checkpoint = Checkpoint(root / cell.shared_path, identity, log)
        self._cell, self._root, self._log = cell, root, log

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the folder within the block: whether it could be had."""
        with ExitStack() as stack:
            held = True
            try:
                stack.enter_context(self.checkpoint.lock())
            except LockedError:
                self._log.info("%s: another process is at the shared steps: done without them", self._cell.path)
                held = False
            yield held

    def newest(self, limit: int) -> int:
        """The step of the latest whole state after at most `limit` steps that has its curve; 0 where there is none."""
        step = self.checkpoint.newest(KIND, up_to=limit) or 0
        return step if whole_lines(self.checkpoint.curve, step) else 0

    def wanted(self) -> bool:
        """Whether a cell on more samples is still to be trained."""
        return any(num > self._cell.num_samples and not self._finished(num) for num in self._cell.engine["shared_with"])

    def keep_curve(self, curve: Path, step: int) -> None:
        """Take over a curve of `step` steps, unless the one that is there goes as far."""
        if not whole_lines(self.checkpoint.curve, step):
            with atomic_path(self.checkpoint.curve) as temporary:
                shutil.copyfile(curve, temporary)

    def drop_if_done(self) -> None:
        """Delete the folder once all cells that share the steps are finished."""
        if all(map(self._finished, self._cell.engine["shared_with"])):
            shutil.rmtree(self.checkpoint.folder, ignore_errors=True)

    def _finished(self, num_samples: int) -> bool:
        folder = replace(self._cell, num_samples=num_samples).folder(self._root) / "checkpoint"
        return (folder / "finished" / "complete.json").exists()
