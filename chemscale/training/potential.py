"""Training and testing of one potential cell, top to bottom: data, model, loop, test, records.

The training loss is energy_weight * mean |dE| / atom + force_weight * mean |dF|, both in units of the subset's force
RMS; |dF| is the length of an atom's force error. The test loss is the mean absolute error of a force component in
meV/angstrom.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chemscale.cost.flops import potential_flops
from chemscale.cost.parameters import count
from chemscale.data.arrays import FrameData
from chemscale.families import FAMILIES, reach
from chemscale.models import registry, weights
from chemscale.models.potential import Potential
from chemscale.training.engine import TorchEngine, make
from chemscale.training.frames import Frames, normalisation, rotations, seen
from chemscale.training.job import Job
from chemscale.training.metrics import cluster_sums
from chemscale.training.ranks import device
from chemscale.training.sampler import FrameBatches, total_steps
from chemscale.training.schedule import validation_steps
from chemscale.training.step import Objective, Step, compiled_step, plain_step
from chemscale.units import MEV_PER_EV

_EVALUATION_FRAMES = 64
# The study's squared loss: weights of energy and force (paper.md, "Training")
_PAPER_ENERGY, _PAPER_FORCE = 0.05, 0.95


def train(job: Job, attempts: int) -> None:
    """Train the job's cell and leave its records in `checkpoint/finished/`.

    Raises:
        Stopped: a signal asked to stop; a checkpoint was written.
        DivergedError: a loss is not finite.
    """
    cell = job.cell
    settings, ranks = cell.training, job.ranks

    place = device(cell.engine["device"])

    # --- data: the subset of this seed, and the fixed validation and test splits --------------------------------------
    data = job.datasets.frames(cell.data["key"])
    subset = job.subset(data)
    validation = job.split(data, "validation")
    test = job.split(data, "test")
    reference, scale = normalisation(data, subset.index)

    within = reach(cell.family, cell.knobs)

    def frames_of(data: FrameData, index: NDArray[np.int64]) -> Frames:
        return Frames(data, index, within, reference, scale, place)

    frames, held_out = frames_of(data, subset.index), frames_of(data, validation.index)
    sampler = FrameBatches(len(subset.index), settings["batch_frames"], cell.seed)
    steps = total_steps(cell.protocol, sampler)

    # --- model and engine ---------------------------------------------------------------------------------------------
    core = registry.build(cell.family, cell.knobs, seed=cell.seed)
    model = Potential(core, torch.from_numpy(reference), scale).to(place)
    engine = make(model, cell, ranks)
    assert isinstance(engine, TorchEngine), "a config offers potentials no stage of ZeRO"
    step = _step(job, model, engine)

    # --- the loop -----------------------------------------------------------------------------------------------------
    progress, best, curve = job.resume(engine)
    to_validate = set(validation_steps(steps, settings))
    for chosen in sampler.from_step(progress.step):
        if progress.step == steps or progress.stale == cell.protocol.get("patience"):
            break
        begun = time.monotonic()
        rate = job.rate(progress.step, steps)
        atoms, edges = int(frames.sizes[chosen].sum()), int(frames.degrees[chosen].sum())
        # the loss of the step, whatever its ranks: each atom's force and each frame's energy weigh the same
        shares = torch.tensor([settings["force_weight"] / atoms, settings["energy_weight"] / len(chosen)])
        own = chosen[ranks.rank :: ranks.size]
        turned = rotations(len(chosen), cell.seed, progress.step) if FAMILIES[cell.family].turned else None
        loss = 0.0
        if len(own):
            batch = frames.batch(own, None if turned is None else turned[ranks.rank :: ranks.size])
            loss = step(batch, shares.to(place)).item()
        norm = engine.update(rate)
        (loss,) = ranks.totals([loss])
        progress.steps_s += time.monotonic() - begun
        progress.step += 1
        progress.samples_seen += len(chosen)
        progress.seen += len(chosen)
        # attention multiplies out the atoms that a rank has
        pairs = sum(int(frames.sizes[chosen[rank :: ranks.size]].sum()) ** 2 for rank in range(ranks.size))
        for name, value in potential_flops(cell.family, cell.knobs, atoms=atoms, edges=edges, pairs=pairs).items():
            progress.flops[name] = progress.flops.get(name, 0) + value
        curve.write(
            step=progress.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            frames_seen=progress.seen,
            flops_full=progress.flops["flops_full"],
        )
        if progress.step in to_validate:
            with engine.evaluated():
                errors = _errors(model, held_out, scale)
            val_loss = errors.force_mae
            curve.write(step=progress.step, val_loss=val_loss)
            progress.stale += 1
            if val_loss < progress.best_loss:
                progress.best_loss, progress.best_step, progress.stale = val_loss, progress.step, 0
                best = engine.weights(into=best)
            job.after_validation(engine, progress, best, curve)
        job.after_step(engine, progress, best, curve)
    curve.close()

    # --- test: the weights of the best validation ---------------------------------------------------------------------
    assert best is not None, "the last step is always validated"
    with engine.evaluated(best):
        tested = frames_of(data, test.index)
        errors = _errors(model, tested, scale)
        test_metrics, evaluation_digests = errors.metrics(), {}
        test_metrics["equivariance_error"] = _equivariance_error(model, tested, scale)
        for name, key in cell.data["evaluations"].items():
            further = job.datasets.frames(key)
            split = job.split(further, "test")
            others = _errors(model, frames_of(further, split.index), scale)
            evaluation_digests[name] = split.digest
            test_metrics |= {f"{name}_{metric}": value for metric, value in others.metrics().items()}
    # the model's buffers, reference energies and scale, belong to it
    named = model.state_dict() | engine.named(best)
    about = {"family": cell.family, "knobs": cell.knobs, **seen(data, subset.index, within)}
    if ranks.writes:
        weights.save(job.checkpoint.folder, named, about)
    clusters = cluster_sums(data.cluster_names, data.test_clusters, errors.force_sums, errors.components)

    # --- records ------------------------------------------------------------------------------------------------------
    parameters = count(cell.family, cell.knobs, None)
    job.finish(
        {
            "num_params": parameters.total,
            "num_params_non_embedding": parameters.non_embedding,
            "tokens_seen": None,
            "tokens_unique": None,
            "frames_seen": progress.seen,
            "frames_unique": len(subset.index),
            "flops_6n": None,
            "flops_attention": None,
            **progress.flops,
            "epochs": progress.samples_seen / cell.num_samples,
            "subset_digest": subset.digest,
            "val_digest": validation.digest,
            "test_digest": test.digest,
            "evaluation_digests": evaluation_digests,
            "test_metrics": test_metrics,
            "reasons": {
                **dict.fromkeys(("tokens_seen", "tokens_unique"), "a potential has no tokens"),
                "flops_6n": "a potential's FLOPs are counted per atom and edge",
                "flops_attention": "no attention",
            },
        },
        progress,
        clusters,
        attempts,
    )


def _step(job: Job, model: Potential, engine: TorchEngine) -> Step:
    """The way in which the cell takes its steps."""
    cell, settings = job.cell, job.cell.training
    objective = Objective(model)
    if not cell.engine["compiled"]:
        return plain_step(objective, engine)
    identity = {"step of": cell.family, "knobs": cell.knobs, "frames": settings["batch_frames"], "code": job.code}
    folder = job.datasets.compiled
    return compiled_step(objective, engine, settings["batch_frames"], identity, folder, cell.threads, job.log)


@dataclass
class _Errors:
    """Errors of a split by frame: sums of |dF| (meV/angstrom) and its square, components, |dE| (meV/atom).

    `force_cosine` is the mean cosine of the angle between an atom's predicted and true force.
    """

    force_sums: NDArray[np.float64]
    force_squares: NDArray[np.float64]
    components: NDArray[np.int64]
    energies: NDArray[np.float64]
    force_cosine: float
    paper_loss: float

    @property
    def force_mae(self) -> float:
        """Mean absolute error of a force component in meV/angstrom."""
        return float(self.force_sums.sum() / self.components.sum())

    def metrics(self) -> dict[str, float]:
        """The metrics of a split, by name."""
        return {
            "force_mae": self.force_mae,
            "force_rmse": float(np.sqrt(self.force_squares.sum() / self.components.sum())),
            "force_cosine": self.force_cosine,
            "energy_mae": float(self.energies.mean()),
            "squared_loss": self.paper_loss,
        }


def _errors(model: Potential, frames: Frames, scale: float) -> _Errors:
    """Errors of the model on frames; summed in float64."""
    count = len(frames)
    sums, squares, cosines, energies, totals = (np.zeros(count) for _ in range(5))
    for start in range(0, count, _EVALUATION_FRAMES):
        chosen = np.arange(start, min(start + _EVALUATION_FRAMES, count))
        batch = frames.batch(chosen)
        predicted, forces = model.energies_and_forces(batch.graph, create_graph=False)
        error = (forces - batch.forces).double() * (scale * MEV_PER_EV)
        sums[chosen] = batch.graph.sum_of_atoms(error.abs().sum(1)).cpu()
        squares[chosen] = batch.graph.sum_of_atoms(error.square().sum(1)).cpu()
        cosine = torch.cosine_similarity(forces.double(), batch.forces.double(), dim=1)
        cosines[chosen] = batch.graph.sum_of_atoms(cosine).cpu()
        energy = (predicted.detach() - batch.energies).double() * (scale * MEV_PER_EV)
        totals[chosen] = energy.square().cpu()
        energies[chosen] = (energy.abs() / batch.atoms).cpu()
    components = 3 * frames.sizes
    # eV^2 for a molecule's energy, (eV/angstrom)^2 for a force component, as in the study's public code
    paper_loss = (_PAPER_ENERGY * totals.mean() + _PAPER_FORCE * squares.sum() / components.sum()) / MEV_PER_EV**2
    return _Errors(sums, squares, components, energies, float(cosines.sum() / frames.sizes.sum()), float(paper_loss))


def _equivariance_error(model: Potential, frames: Frames, scale: float) -> float:
    """How far forces do not turn with their frame: root mean square over components and frames, in meV/angstrom."""
    chosen = np.arange(min(_EVALUATION_FRAMES, len(frames)))
    turned = rotations(len(chosen), 0, 0)
    plain = frames.batch(chosen)
    _, forces = model.energies_and_forces(plain.graph, create_graph=False)
    _, found = model.energies_and_forces(frames.batch(chosen, turned).graph, create_graph=False)
    of_atom = torch.from_numpy(turned)[plain.graph.frame.cpu()]
    expected = torch.einsum("aij,aj->ai", of_atom, forces.double().cpu())
    return float((found.double().cpu() - expected).square().mean().sqrt()) * scale * MEV_PER_EV
