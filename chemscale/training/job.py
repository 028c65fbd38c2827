"""What a train loop is handed: the cell, its folders, its data, and the way to stop, to continue and to finish."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data import arrays
from chemscale.data.identity import cell_identity
from chemscale.data.manifest import read_manifest
from chemscale.errors import DivergedError, Stopped
from chemscale.families import LOSS_UNITS
from chemscale.grid import Cell, protocol_label
from chemscale.io import atomic_path, write_json
from chemscale.records import SCHEMA_VERSION, loss_spikes, write_metrics
from chemscale.training.checkpoint import Checkpoint
from chemscale.training.meters import EnergyMeter, matmul_peak
from chemscale.training.metrics import Curve, provenance, timestamp, whole_lines, write_clusters
from chemscale.training.ranks import device
from chemscale.training.schedule import learning_rate
from chemscale.training.shared import KIND, SharedSteps

if TYPE_CHECKING:
    from chemscale.training.engine import Engine
    from chemscale.training.ranks import Ranks


# measured once for all the cells of a process
_matmul_peak = cache(matmul_peak)


class Datasets:
    """Prepared data sets by key, read once for all the cells of a process; they are never changed after reading."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._language: dict[str, arrays.LanguageData] = {}
        self._frames: dict[str, arrays.FrameData] = {}
        self._manifests: dict[str, dict[str, Any]] = {}

    def language(self, key: str) -> arrays.LanguageData:
        """The tokens of a language data set."""
        if key not in self._language:
            self._language[key] = arrays.load_language(self.data_dir / key)
        return self._language[key]

    def frames(self, key: str) -> arrays.FrameData:
        """The frames of a potential data set."""
        if key not in self._frames:
            self._frames[key] = arrays.load_frames(self.data_dir / key)
        return self._frames[key]

    def manifest(self, key: str) -> dict[str, Any]:
        """The manifest of a data set."""
        if key not in self._manifests:
            self._manifests[key] = read_manifest(self.data_dir / key)
        return self._manifests[key]

    @property
    def compiled(self) -> Path:
        """The folder of what is compiled once for many cells, see `models/compiled.py`."""
        return self.data_dir / "compiled"

    def folder(self, key: str) -> Path:
        """The folder of a data set."""
        return self.data_dir / key


@dataclass
class Progress:
    """The counters of a run; a checkpoint holds them, a resumed run continues them."""

    step: int = 0
    samples_seen: int = 0
    seen: int = 0  # tokens or frames
    flops: dict[str, int] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = float("inf")
    stale: int = 0  # validations since the best one
    wall_s: float = 0.0
    steps_s: float = 0.0  # of it, in steps
    energy_j: float | None = 0.0  # of all ranks; None where a part of it is not known
    shared_steps: int = 0  # the first steps, where a run on fewer samples made them
    shared_s: float = 0.0  # of wall_s, in those
    shared_flops: int = 0  # of flops_full, in those


@dataclass
class Split:
    """Rows of a data set that a run uses, as indices into it, with the digest of their row digests."""

    index: NDArray[np.int64]
    digest: str


class Job:
    """One training run of a cell: identity, folders and the bookkeeping that both loops share."""

    def __init__(
        self,
        cell: Cell,
        root: Path,
        datasets: Datasets,
        code: str,
        log: logging.Logger,
        should_stop: Callable[[], bool],
        ranks: Ranks,
    ) -> None:
        self.cell, self.datasets, self.code, self.log, self.ranks = cell, datasets, code, log, ranks
        self.folder = cell.folder(root)
        self.data_digest: str = datasets.manifest(cell.data["key"])["digest"]
        identity = cell_identity(cell, datasets.data_dir, code, lambda key: str(datasets.manifest(key)["digest"]))
        self.checkpoint = Checkpoint(self.folder / "checkpoint", identity, log)
        self.shared: SharedSteps | None = None
        self._shared_steps = 0  # the number of steps after which a state is left for others
        if cell.shares_steps and cell.engine["shared_with"]:
            content = arrays.content(datasets.folder(cell.data["key"]), None, None)
            identity = {"config": cell.shared_digest, "data": self.data_digest, "arrays": content, "code": code}
            self.shared = SharedSteps(cell, root, identity, log)
        self.retry = self.checkpoint.retry()
        self._should_stop = should_stop
        self._saved = self._begun = time.monotonic()
        self.started = timestamp()

    # --- data ---------------------------------------------------------------------------------------------------------

    def subset(self, data: arrays.DataArrays, *, drawn: bool = False) -> Split:
        """The training subset: the first `num_samples` training rows in the order of the seed's keyed hash.

        They are in the order of the shards, or, `drawn`, in that of the hash.
        """
        return Split(*data.subset(self.cell.seed, self.cell.num_samples, drawn=drawn))

    @staticmethod
    def split(data: arrays.DataArrays, name: str) -> Split:
        """The rows of the validation or the test split, in the order of the shards."""
        return Split(*data.split(name))

    # --- continuing and stopping --------------------------------------------------------------------------------------

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step of so many: the schedule's, or a share of it since the run was taken back."""
        rate = learning_rate(step, steps, self.cell.training)
        if self.retry is None or step < self.retry["from_step"]:
            return rate
        return float(rate * self.retry["rate_share"])

    def take_back(self, error: DivergedError) -> bool:
        """Whether a run that diverged goes on from its last validation at a lower rate: once, if the config says so."""
        share = self.cell.training["retry_rate"]
        if share is None or self.retry is not None:
            return False
        if self.ranks.writes:
            self.checkpoint.take_back(share)
        self.ranks.told_by_first(0)  # the others read what the first has written
        self.retry = self.checkpoint.retry()
        assert self.retry is not None
        self.log.warning(
            "%s: %s; goes on after step %d at %g of the rate", self.cell.path, error, self.retry["from_step"], share
        )
        return True

    def resume(self, engine: Engine, shared_steps: int = 0) -> tuple[Progress, Any, Curve]:
        """The progress, the best weights and the curve to go on with; a fresh start where no state fits.

        The first `shared_steps` steps are those of runs on more samples, too.
        """
        # not before there is something to train: it imports torch, which publishing records does without
        self._meter = EnergyMeter(device(self.cell.engine["device"]).type, self.cell.threads)
        self._shared_steps = shared_steps
        step = self.ranks.told_by_first(self._step_to_continue() if self.ranks.writes else 0)
        if step == 0 and self.retry is None and self.shared is not None:
            with self.shared.held() if self.ranks.writes else nullcontext(False) as held:
                found = self._resume_shared(engine, self.shared, held)
            if found is not None:
                return found
        kind = self._kind if self.retry is None or step > self.retry["from_step"] else "validated"
        curve = Curve(self.checkpoint.curve if self.ranks.writes else None, step)
        if step == 0:
            return Progress(), None, curve
        parts, state = self.checkpoint.load(kind, step)
        best = engine.load_state(parts, step)
        self.log.info("%s: continues after step %d", self.cell.path, step)
        return Progress(**state["progress"]), best, curve

    def _resume_shared(self, engine: Engine, shared: SharedSteps, held: bool) -> tuple[Progress, Any, Curve] | None:
        """What `resume` gives, by the steps that a run on fewer samples has made; None where there are none."""
        step = self.ranks.told_by_first(shared.newest(self._shared_steps) if held else 0)
        if step == 0:
            return None
        parts, state = shared.checkpoint.load(KIND, step)
        best = engine.load_state(parts, step)
        progress = Progress(**state["progress"])
        if state["num_samples"] != self.cell.num_samples:
            progress.shared_steps, progress.shared_s = step, progress.wall_s
            progress.shared_flops = progress.flops["flops_full"]
        if self.ranks.writes:
            with atomic_path(self.checkpoint.curve) as temporary:
                shutil.copyfile(shared.checkpoint.curve, temporary)
        self.ranks.totals([0.0])  # all have read it before it is let go
        self.log.info("%s: goes on after %d steps of n%d", self.cell.path, step, state["num_samples"])
        return progress, best, Curve(self.checkpoint.curve if self.ranks.writes else None, step)

    def _step_to_continue(self) -> int:
        """The step of the state to go on from, and no state of a later one left; 0 where there is none."""
        step = self.checkpoint.newest(self._kind)
        if step is None and self.retry is not None:
            step = self.retry["from_step"]
        if step and not whole_lines(self.checkpoint.curve, step):
            self.log.warning("%s: the curve lacks steps before the checkpoint: training starts anew", self.cell.path)
            step = None
        # a later state is not whole, and would count among the newest ones that are kept
        self.checkpoint.drop_states(self._kind, after=step or 0)
        return step or 0

    @property
    def _kind(self) -> str:
        return "step" if self.retry is None else "retry"

    def after_validation(self, engine: Engine, progress: Progress, best: Any, curve: Curve) -> None:
        """Keep the state of a validation where a run that diverges later goes on from it."""
        if self.cell.training["retry_rate"] is not None and self.retry is None:
            self._save("validated", engine, progress, best, curve)

    def after_step(self, engine: Engine, progress: Progress, best: Any, curve: Curve) -> None:
        """Checkpoint when it is time or when a signal asks to stop; then `Stopped` ends the run.

        After the last step that is shared, leave the state for runs on more samples.
        """
        self._meter.update()
        if self.shared is not None and self.retry is None and progress.step == self._shared_steps:
            with self.shared.held() if self.ranks.writes else nullcontext(False) as held:
                if self.ranks.told_by_first(held and self.shared.wanted()):
                    self._save_shared(self.shared, engine, progress, best, curve)
        now = time.monotonic()
        # any rank may have got the signal; one clock decides
        due = self.ranks.writes and now - self._saved >= self.cell.engine["checkpoint_seconds"]
        stop, save = (value > 0 for value in self.ranks.totals([self._should_stop(), due]))
        if not stop and not save:
            return
        self._save(self._kind, engine, progress, best, curve)
        if stop:
            self.ranks.told_by_first(0)  # nobody ends before the state is written
            curve.close()
            raise Stopped(f"{self.cell.path}: stopped after step {progress.step}, checkpoint written")

    def _save_shared(self, shared: SharedSteps, engine: Engine, progress: Progress, best: Any, curve: Curve) -> None:
        if self.ranks.writes:
            curve.flush()
            shared.keep_curve(self.checkpoint.curve, progress.step)
        self._save(KIND, engine, progress, best, curve, shared.checkpoint)

    def _save(
        self, kind: str, engine: Engine, progress: Progress, best: Any, curve: Curve, into: Checkpoint | None = None
    ) -> None:
        self._count(progress)
        self._saved = self._begun
        # an infinite best loss is no JSON: before the first validation it is left to the default
        kept = {name: value for name, value in vars(progress).items() if value != float("inf")}
        parts = engine.state(best)
        if self.ranks.writes:
            curve.flush()
            state = {"progress": kept, "num_samples": self.cell.num_samples}
            (into or self.checkpoint).save(kind, progress.step, parts, state)
        else:
            # an engine that keeps a share of the state on each rank needs all of them to tell it
            deque(parts, maxlen=0)

    def _count(self, progress: Progress) -> None:
        """Add the time and the energy since they were counted last; all ranks call it."""
        now = time.monotonic()
        progress.wall_s += now - self._begun
        self._begun = now
        (joules,) = self.ranks.totals([self._meter.take()])
        if self._meter.reason:
            progress.energy_j = None
        elif progress.energy_j is not None:
            progress.energy_j += joules

    # --- finishing ----------------------------------------------------------------------------------------------------

    def finish(
        self,
        metrics: Mapping[str, Any],
        progress: Progress,
        clusters: tuple[list[str], NDArray[np.float64], NDArray[np.int64]],
        attempts: int,
    ) -> None:
        """Let the first rank write all records to `checkpoint/finished/`, its marker last."""
        self._count(progress)
        if not self.ranks.writes:
            return
        cell, folder = self.cell, self.checkpoint.finished_folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        test_loss = write_clusters(folder / "test_clusters.parquet", *clusters)
        write_json(folder / "config.json", cell.to_dict())
        shutil.copyfile(self.checkpoint.curve, folder / "metrics.jsonl")
        write_json(folder / "provenance.json", self._provenance(progress, attempts))
        write_metrics(
            folder / "metrics.json",
            {
                "schema_version": SCHEMA_VERSION,
                "status": "done",
                "study": cell.study,
                "domain": cell.domain,
                "family": cell.family,
                "size": cell.size,
                "num_samples": cell.num_samples,
                "seed": cell.seed,
                "control": cell.control,
                "protocol": protocol_label(cell.protocol),
                "learning_rate": cell.training["learning_rate"],
                "samples_seen": progress.samples_seen,
                "steps": progress.step,
                "best_step": progress.best_step,
                "loss_unit": LOSS_UNITS[cell.domain],
                "val_loss": progress.best_loss,
                "test_loss": test_loss,
                "config_digest": cell.digest,
                "data_digest": self.data_digest,
                "code_digest": self.code,
                "loss_spikes": loss_spikes((folder / "metrics.jsonl").read_text().splitlines()),
                "retried_from_step": None if self.retry is None else self.retry["from_step"],
                **metrics,
                "reasons": {
                    **metrics["reasons"],
                    **({} if self.retry else {"retried_from_step": "the run did not diverge"}),
                    **({} if cell.control else {"control": "a cell of the grid"}),
                },
            },
        )
        self.checkpoint.mark_finished()

    def _provenance(self, progress: Progress, attempts: int) -> dict[str, Any]:
        """What varies between runs of the cell; `flops_utilisation` is the steps' share of a measured peak."""
        import torch

        place = device(self.cell.engine["device"])
        dtype = torch.bfloat16 if self.cell.training.get("precision") == "bf16" else torch.float32
        peak = _matmul_peak(place, dtype)
        flops_per_s = progress.flops["flops_full"] / progress.steps_s
        return provenance() | {
            # what the records belong to: a cell of another identity has to be trained again
            "identity": self.checkpoint.identity,
            "started": self.started,
            "wall_s": progress.wall_s,
            "device_s": progress.wall_s * self.ranks.size,
            "steps_s": progress.steps_s,
            # what of all this a run on fewer samples did, once for both
            "shared_steps": progress.shared_steps,
            "shared_s": progress.shared_s,
            "shared_flops": progress.shared_flops,
            "seen_per_s": progress.seen / progress.steps_s,
            "flops_per_s": flops_per_s,
            "matmul_peak_flops_per_s": peak,
            "flops_utilisation": flops_per_s / (peak * self.ranks.size),
            "device": place.type if place.type == "cpu" else torch.cuda.get_device_name(place),
            "device_peak_memory_bytes": None if place.type == "cpu" else torch.cuda.max_memory_allocated(place),
            "energy_kwh": None if progress.energy_j is None else progress.energy_j / 3.6e6,
            "attempts": attempts,
            "reasons": {
                **(
                    {"energy_kwh": self._meter.reason or "of a part that another machine did"}
                    if progress.energy_j is None
                    else {}
                ),
                **(
                    {"device_peak_memory_bytes": "the processor's memory is in peak_memory_bytes"}
                    if place.type == "cpu"
                    else {}
                ),
            },
        }
