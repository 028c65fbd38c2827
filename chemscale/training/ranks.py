"""The processes that train one cell together, and the little that they tell each other.

All ranks walk through the same steps with the same order of data; each takes its micro-batches of a step. Rank 0 alone
writes records. A launcher (torchrun, srun) starts the ranks and names each by RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT; a process without them is alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from chemscale.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# a rank that waits so long for another one is alone in the world: it fails, and the cell is tried again
_PATIENCE = timedelta(minutes=10)


class Ranks:
    """This process's number among those that train a cell, and what they agree on; alone, nothing is sent."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def writes(self) -> bool:
        """Whether this is the rank that writes records."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, the same bits on each."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)

    def totals(self, values: Sequence[float]) -> list[float]:
        """The sums of numbers over all ranks, in double precision."""
        if self.size == 1:
            return list(values)
        import torch

        summed = torch.tensor(values, dtype=torch.float64)
        self.add_up(summed)
        return [float(value) for value in summed]

    def told_by_first(self, value: int) -> int:
        """A number that rank 0 knows."""
        return round(self.totals([value if self.rank == 0 else 0])[0])


def launched() -> bool:
    """Whether torchrun or srun started this process as one of several ranks; srun's names are turned into torch's.

    Of a job step of SLURM, rank 0 is expected on the node that srun was called on: the first one of a batch job.
    """
    step = os.environ
    if "RANK" not in step and int(step.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        number = 31 * int(step["SLURM_JOB_ID"]) + int(step["SLURM_STEP_ID"])
        os.environ.update(
            RANK=step["SLURM_PROCID"],
            WORLD_SIZE=step["SLURM_STEP_NUM_TASKS"],
            LOCAL_RANK=step["SLURM_LOCALID"],
            MASTER_ADDR=step["SLURM_LAUNCH_NODE_IPADDR"],
            MASTER_PORT=str(20_000 + number % 20_000),
        )
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def device(asked: str) -> torch.device:
    """The device of this rank: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    On a GPU, torch is told to take deterministic algorithms alone.

    Raises:
        InputError: there is no GPU.
    """
    import torch

    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("train on cuda", "no GPU that torch can use", "set the engine's device to auto or cpu")
    found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(found)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products are not deterministic
    torch.use_deterministic_algorithms(True)
    return found


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of a launcher's environment, connected for as long as the block lasts; a process alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    import torch.distributed

    # what ranks tell each other lies in the host's memory, gradients where they are computed
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()
