"""The engine's second body: DeepSpeed ZeRO 1, 2 and 3, for models whose training state one rank cannot hold.

DeepSpeed partitions weights, gradients and the optimiser's state over the ranks, gathers weights for the forward pass
(stage 3), sums gradients and measures their norm (Rajbhandari et al. 2020, arXiv 1910.02054). What stays ours: the
arithmetic of clipping, of AdamW and of the running average, so that every body does the same operations on each
element, the learning rate, and the form of the state, from which any other body, stage and number of ranks goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from chemscale.training.engine import PART, step_of_adamw, with_parameter
from chemscale.training.ranks import Ranks

_NEVER = 1 << 62  # steps between two lines that DeepSpeed prints
# elements: of the buckets in which gradients and weights travel, of which DeepSpeed allocates one each, and of a
# parameter that stays whole on every rank in stage 3
_BUCKET, _WHOLE = 2**24, 100_000


@cache
def imported() -> Any:
    """DeepSpeed, imported without what training never calls; the process group has to be there.

    It compiles a shared-memory all-reduce for inference on its first start, for 100 s: its table of compatible ops is
    made on first access, and an empty one in its place means that nothing is probed. And it decorates an optimiser that
    is not used here with torch.compile, whose import takes 2.3 s.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # torch 2.13 renamed two collectives that DeepSpeed calls by their older names
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.compiler

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.runtime.compiler.compile = lambda: lambda function: function
    deepspeed.utils.logging.logger.setLevel(logging.ERROR)  # it writes to standard output
    if not torch.distributed.is_initialized():
        # a rank alone: no launcher named it and `chemscale.training.ranks.joined` made no group; without one DeepSpeed
        # asks for MPI
        os.environ.setdefault("LOCAL_RANK", "0")
        store = torch.distributed.HashStore()  # type: ignore[attr-defined] # exported at run time alone
        torch.distributed.init_process_group(store=store, rank=0, world_size=1)
    deepspeed.init_distributed(verbose=False)
    return deepspeed


class _AdamW:
    """Clipping, AdamW and a running average over flat fp32 partitions; the operations of `TorchEngine`, in its order.

    All that DeepSpeed asks of an optimiser is here: `param_groups`, whose parameters it replaces by its partitions,
    `state` and `step`, which it calls for one group at a time. Not a subclass of torch's: that would import torch's
    compiler, 2.4 s. `steps`, the number of the update, is set by the engine. `norm` tells the norm of the whole
    gradient, which is clipped here: DeepSpeed adds 1e-6 to it, 16 times what rounding to fp32 does.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        beta1: float,
        beta2: float,
        clip: float,
        norm: Callable[[], float],
        average: float,
    ) -> None:
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        self.beta1, self.beta2, self.clip, self.average, self.steps = beta1, beta2, clip, average, 0
        self.norm = norm

    def prepare(self, flat: Tensor) -> None:
        """Create the state of one flat partition before the first step, so that a state can be loaded into it."""
        state = self.state[flat]
        state["moment"], state["square"] = torch.zeros_like(flat.detach()), torch.zeros_like(flat.detach())
        if self.average:
            state["average"] = flat.detach().clone()

    @torch.no_grad()
    def step(self) -> None:
        """Update the partitions in `param_groups` from their gradients, already summed."""
        decay = min(self.average, (1 + self.steps) / (10 + self.steps))
        divisor = max(1.0, self.norm() / self.clip)
        for group in self.param_groups:
            for flat in group["params"]:
                state = self.state[flat]
                step_of_adamw(
                    flat,
                    flat.grad,
                    state["moment"],
                    state["square"],
                    step=self.steps,
                    rate=group["lr"],
                    betas=(self.beta1, self.beta2),
                    weight_decay=group["weight_decay"],
                    divisor=divisor,
                )
                if self.average:
                    state["average"].lerp_(flat, 1 - decay)


@dataclass(frozen=True)
class _Fragment:
    """Where a run of one parameter's elements lies: [start, start + count) of it is at `offset` of flat `group`."""

    group: int
    offset: int
    start: int
    count: int


class ZeroEngine:
    """AdamW with clipped gradients and averaged weights under ZeRO of a stage; the settings are `TorchEngine`'s.

    `module` is to be called in place of the module that it was made of. In stages 2 and 3 each pass holds messages
    between the ranks: all of them make as many. `offload` keeps the optimiser's state in the host's memory.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        stage: int,
        offload: bool,
        weight_decay: float,
        beta1: float,
        beta2: float,
        gradient_clip: float,
        average: float,
        precision: str,
        ranks: Ranks,
        initial: Iterable[tuple[str, Tensor]] | None = None,
        place: torch.device | None = None,
    ) -> None:
        """`initial`: the weights to begin with, where the module is on the meta device; `place` is their device."""
        self._stage, self._ranks = stage, ranks
        config = _config(stage, offload, precision)
        if initial is not None:
            _materialise(module, initial, config, place)
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        # a parameter that is shared out already has lost its shape
        self._shapes = {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in named}
        matrices = [parameter for name, parameter in named if len(self._shapes[name]) >= 2]
        vectors = [parameter for name, parameter in named if len(self._shapes[name]) < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay, "lr": 0.0},
            {"params": vectors, "weight_decay": 0.0, "lr": 0.0},
        ]
        self._optimizer = _AdamW(
            groups,
            beta1=beta1,
            beta2=beta2,
            clip=gradient_clip,
            norm=lambda: float(self._wrapper._global_grad_norm),
            average=average,
        )
        deepspeed = imported()
        # what it prints of its use of memory is in nobody's interest
        with contextlib.redirect_stdout(io.StringIO()):
            # a callable, since our optimiser is no torch.optim.Optimizer
            self._engine = deepspeed.initialize(model=module, optimizer=lambda _: self._optimizer, config=config)[0]
        self.module = self._engine
        self._wrapper: Any = self._engine.optimizer
        # stage 3 knows only the mean of the gradients over the ranks
        self._scale = float(ranks.size) if stage == 3 else 1.0
        if stage == 3:
            self._flats: list[Tensor] = list(self._wrapper.fp32_partitioned_groups_flat)
        else:
            self._flats = [group["params"][0] for group in self._optimizer.param_groups]
        for flat in self._flats:
            self._optimizer.prepare(flat)
        self._fragments = dict(self._find_fragments(named))

    def _find_fragments(self, named: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, _Fragment]]:
        for name, parameter in named:
            whole: Any = parameter
            if self._stage == 3:
                group, offset, size = self._wrapper.grad_position[self._wrapper.get_param_id(parameter)]
                start = self._ranks.rank * size
                count = min(size, whole.ds_numel - start)  # the last ranks' parts may be padding
            else:
                mapping = whole._hp_mapping  # None where this rank owns nothing of it
                if mapping is None:
                    continue
                group, offset = mapping.param_group_index, mapping.hp_fragment_address.start
                start, count = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
            if count > 0:
                yield name, _Fragment(group, offset, start, count)

    # --- the step -----------------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a share of the step's loss."""
        self._engine.backward(loss * self._scale)

    def update(self, rate: float) -> float:
        """Add up the gradients of all ranks, clip, update at this learning rate; returns the norm before clipping.

        Where the norm is not finite nothing is updated.
        """
        self._optimizer.steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        if not self._engine.was_step_applied():
            self._optimizer.steps -= 1
        return float(self._engine.get_global_grad_norm())

    # --- averaged weights ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def evaluated(self, weights: list[Tensor] | None = None) -> Iterator[None]:
        """A context in which the module holds the averaged weights, or what `weights` gave earlier.

        Nothing is copied: each fp32 partition is pointed at its average, and the weights of the forward pass are
        refreshed from there, as after an update.
        """
        if weights is None and self._optimizer.average:
            weights = [self._optimizer.state[flat]["average"] for flat in self._flats]
        if weights is None:
            yield
            return
        held = [flat.data for flat in self._flats]
        self._expose(weights)
        try:
            yield
        finally:
            self._expose(held)

    @torch.no_grad()
    def _expose(self, partitions: list[Tensor]) -> None:
        for flat, partition in zip(self._flats, partitions, strict=True):
            flat.data = partition
        self._refresh()

    @torch.no_grad()
    def _refresh(self) -> None:
        """Make the forward pass use the fp32 partitions; what DeepSpeed itself does at the end of an update."""
        wrapper = self._wrapper
        if self._stage != 3:
            wrapper.update_lp_params()
            return
        wrapper._partition_all_parameters()
        for group in range(len(self._flats)):
            wrapper._reassign_or_swap_out_partitioned_parameters(group)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)

    def weights(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """A copy of the weights that are evaluated: this rank's part of them."""
        kind = "average" if self._optimizer.average else "weights"
        evaluated = [self._partition(kind, group) for group in range(len(self._flats))]
        if into is None:
            return [partition.clone() for partition in evaluated]
        return [kept.copy_(partition) for kept, partition in zip(into, evaluated, strict=True)]

    # --- the state ----------------------------------------------------------------------------------------------------

    def _partition(self, kind: str, group: int, best: list[Tensor] | None = None) -> Tensor:
        if kind == "best":
            assert best is not None
            return best[group]
        flat = self._flats[group]
        return flat.detach() if kind == "weights" else self._optimizer.state[flat][kind]

    def _kinds(self) -> list[str]:
        return ["weights", "moment", "square"] + (["average"] if self._optimizer.average else [])

    def _whole(self, name: str, kind: str, best: list[Tensor] | None) -> Tensor | None:
        """A parameter, or its moments, put together on rank 0 from their owners; None on the other ranks."""
        shape = self._shapes[name]
        whole = torch.zeros(math.prod(shape), device=self._flats[0].device)
        if own := self._fragments.get(name):
            flat = self._partition(kind, own.group, best)
            whole[own.start : own.start + own.count] = flat[own.offset : own.offset + own.count]
        # a sum of integers, of which all but one are 0, keeps every bit, the sign of zero included
        torch.distributed.reduce(whole.view(torch.int32), 0)
        return whole.view(shape) if self._ranks.writes else None

    def named(self, weights: list[Tensor]) -> dict[str, Tensor]:
        """What `weights` gave earlier, by the names of the parameters, on rank 0; all ranks call it."""
        found = {name: self._whole(name, "best", weights) for name in self._shapes}
        return {name: value for name, value in found.items() if value is not None}

    def state(self, best: list[Tensor] | None = None) -> Iterator[dict[str, Tensor]]:
        """Everything that a continuation needs, and the weights `best`, in parts: see `Engine`.

        The parts are empty on other ranks than 0; all ranks take all of them, together. Rank 0 holds one part at a
        time, the others one parameter.
        """
        part: dict[str, Tensor] = {}
        held = 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            if part and held + size > PART:
                yield part
                part, held = {}, 0
            for kind in [*self._kinds(), *(["best"] if best is not None else [])]:
                whole = self._whole(name, kind, best)
                if whole is not None:
                    part[f"{kind}/{name}"] = whole
            held += size
        yield part

    @torch.no_grad()
    def load_state(self, parts: Iterable[Mapping[str, Tensor]], steps: int) -> list[Tensor] | None:
        """Continue from a `state()` after so many steps, bit for bit; returns the best weights, None without.

        Every rank reads all parts and keeps what it owns; nothing is sent but the refreshed weights.
        """
        best = [torch.zeros_like(flat) for flat in self._flats]
        missing = {f"{kind}/{name}" for kind in [*self._kinds(), "best"] for name in self._shapes}
        for part in parts:
            for key, value in part.items():
                kind, _, name = key.partition("/")
                if own := self._fragments.get(name):
                    flat = self._partition(kind, own.group, best)
                    flat[own.offset : own.offset + own.count] = value.reshape(-1)[own.start : own.start + own.count]
                missing.discard(key)
        without_best = {f"best/{name}" for name in self._shapes}
        assert not missing or missing == without_best, f"a whole state lacks {sorted(missing)[:3]}"
        self._optimizer.steps = steps
        self._refresh()
        return None if missing else best


def _materialise(
    module: nn.Module, initial: Iterable[tuple[str, Tensor]], config: dict[str, Any], place: torch.device | None
) -> None:
    """Give a module on the meta device its weights, in stage 3 each shared out before the next one is drawn."""
    dtype = torch.bfloat16 if "bf16" in config else torch.float32
    partition = None
    if config["zero_optimization"]["stage"] == 3:
        partition = imported().zero.Init(nn.Module(), config_dict_or_path=config, dtype=dtype)
    for name, value in initial:
        parameter = with_parameter(module, name, value.to(place, dtype))
        if partition is not None:
            partition._convert_to_zero_parameters([parameter])


def _config(stage: int, offload: bool, precision: str) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
        "overlap_comm": torch.cuda.is_available(),  # by streams, of which a CPU has none
        "stage3_param_persistence_threshold": _WHOLE,
        "stage3_prefetch_bucket_size": _BUCKET,
        # what is gathered is let go as soon as a block is done
        "stage3_max_live_parameters": _BUCKET,
        "stage3_max_reuse_distance": 0,
        "memory_efficient_linear": False,  # it replaces torch.nn.functional.linear for the whole process
    }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # demanded, and used for its own counts of samples alone
        "gradient_accumulation_steps": 1,  # backward() divides by it
        "managed_gradient_accumulation": False,  # step() is the boundary, after however many backward passes
        "gradient_clipping": 0.0,  # ours
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # offload with our optimiser in place of a compiled one
        "steps_per_print": _NEVER,
    }
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
    if stage != 3:
        config["gradient_allreduce_op"] = "sum"  # refused in stage 3
    return config
