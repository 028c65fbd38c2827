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
from torch import Tensor

from chemscale.cost.flops import potential_flops
from chemscale.cost.parameters import count
from chemscale.data.arrays import FrameData
from chemscale.models import registry, weights
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential
from chemscale.training.engine import make
from chemscale.training.job import Job
from chemscale.training.metrics import cluster_sums
from chemscale.training.sampler import FrameBatches, total_steps
from chemscale.training.schedule import validation_steps
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
    settings = cell.training

    # --- data: the subset of this seed, and the fixed validation and test splits --------------------------------------
    data = job.datasets.frames(cell.data["key"])
    subset = job.subset(data)
    validation = job.split(data, "validation")
    test = job.split(data, "test")
    reference, scale = _normalisation(data, subset.index)
    frames = _Frames(data, subset.index, cell.knobs["cutoff"], reference, scale)
    held_out = _Frames(data, validation.index, cell.knobs["cutoff"], reference, scale)
    sampler = FrameBatches(len(subset.index), settings["batch_frames"], cell.seed)
    steps = total_steps(cell.protocol, sampler)

    # --- model and engine ---------------------------------------------------------------------------------------------
    model = Potential(registry.build(cell.family, cell.knobs, seed=cell.seed), torch.from_numpy(reference), scale)
    engine = make(model, cell, job.ranks)

    # --- the loop -----------------------------------------------------------------------------------------------------
    progress, best, curve = job.resume(engine)
    to_validate = set(validation_steps(steps, settings))
    for chosen in sampler.from_step(progress.step):
        if progress.step == steps or progress.stale == cell.protocol.get("patience"):
            break
        begun = time.monotonic()
        rate = job.rate(progress.step, steps)
        batch = frames.batch(chosen)
        energies, forces = model.energies_and_forces(batch.graph, create_graph=True)
        force_error = (forces - batch.forces).square().sum(1).add(1e-12).sqrt().mean()
        energy_error = ((energies - batch.energies).abs() / batch.atoms).mean()
        loss = settings["force_weight"] * force_error + settings["energy_weight"] * energy_error
        engine.backward(loss)
        norm = engine.update(rate)
        progress.steps_s += time.monotonic() - begun
        progress.step += 1
        progress.samples_seen += len(chosen)
        progress.seen += len(chosen)
        for name, value in potential_flops(
            cell.family, cell.knobs, atoms=len(batch.graph.species), edges=batch.graph.edges.shape[1]
        ).items():
            progress.flops[name] = progress.flops.get(name, 0) + value
        curve.write(
            step=progress.step,
            loss=loss.item(),
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
        errors = _errors(model, _Frames(data, test.index, cell.knobs["cutoff"], reference, scale), scale)
        test_metrics, evaluation_digests = errors.metrics(), {}
        for name, key in cell.data["evaluations"].items():
            further = job.datasets.frames(key)
            split = job.split(further, "test")
            others = _errors(model, _Frames(further, split.index, cell.knobs["cutoff"], reference, scale), scale)
            evaluation_digests[name] = split.digest
            test_metrics |= {f"{name}_{metric}": value for metric, value in others.metrics().items()}
    # the model's buffers, reference energies and scale, belong to it
    named = model.state_dict() | engine.named(best)
    weights.save(job.checkpoint.folder, named, {"family": cell.family, "knobs": cell.knobs})
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


def _normalisation(data: FrameData, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Reference energy of each species in eV [119] by least squares, and the force RMS in eV/angstrom, of a subset.

    A species that the subset lacks keeps 0: the least-squares solution of smallest norm.
    """
    counts = np.zeros((len(index), 119))
    squares = total = 0.0
    for row, frame in enumerate(index):
        atoms = slice(data.offsets[frame], data.offsets[frame + 1])
        np.add.at(counts[row], data.species[atoms], 1)
        squares += float(np.square(data.forces[atoms]).sum())
        total += data.forces[atoms].size
    present = np.flatnonzero(counts.any(axis=0))
    reference = np.zeros(119)
    reference[present] = np.linalg.lstsq(counts[:, present], data.energies[index], rcond=None)[0]
    return reference, float(np.sqrt(squares / total))


def _ranges(begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers begin, begin + 1 ... of each range, one range after another."""
    ends = np.cumsum(sizes)
    ranges: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(begins - (ends - sizes), sizes)
    return ranges


@dataclass
class _Batch:
    """Some frames and, in scaled units, what is known of them: forces [A, 3], energies [F]; atoms [F] of each."""

    graph: Graph
    forces: Tensor
    energies: Tensor
    atoms: Tensor


class _Frames:
    """The frames of a split with their stored neighbours within the cutoff, ready to be cut into batches."""

    def __init__(
        self, data: FrameData, index: NDArray[np.int64], cutoff: float, reference: NDArray[np.float64], scale: float
    ) -> None:
        sizes = data.offsets[index + 1] - data.offsets[index]
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        atoms = _ranges(data.offsets[index], sizes)
        positions = data.positions[atoms]
        all_edges, all_offsets = data.edges(cutoff)
        degrees = all_offsets[index + 1] - all_offsets[index]
        self.edge_offsets = np.concatenate([[0], np.cumsum(degrees)])
        edges = all_edges[_ranges(all_offsets[index], degrees)].T.astype(np.int64)
        species = data.species[atoms]
        references = np.add.reduceat(reference[species], self.offsets[:-1])
        self.species = torch.from_numpy(species.astype(np.int64))
        self.positions = torch.from_numpy(positions.astype(np.float32))
        self.forces = torch.from_numpy((data.forces[atoms] / scale).astype(np.float32))
        # references are taken off in float64: totals of hundreds of eV would cost float32 its digits
        self.energies = torch.from_numpy(((data.energies[index] - references) / scale).astype(np.float32))
        self.edges = torch.from_numpy(edges)
        self.sizes = torch.from_numpy(sizes)

    def batch(self, chosen: NDArray[np.int64]) -> _Batch:
        """The frames `chosen`, atoms numbered anew from 0."""
        first = 0
        atoms, edges = [], []
        for frame in chosen:
            start, end = int(self.offsets[frame]), int(self.offsets[frame + 1])
            atoms.append(slice(start, end))
            edges.append(self.edges[:, self.edge_offsets[frame] : self.edge_offsets[frame + 1]] + first)
            first += end - start
        picked = torch.from_numpy(chosen)
        sizes = self.sizes[picked]
        graph = Graph(
            torch.cat([self.species[part] for part in atoms]),
            torch.cat([self.positions[part] for part in atoms]),
            torch.cat(edges, dim=1),
            torch.repeat_interleave(torch.arange(len(chosen)), sizes),
            len(chosen),
        )
        return _Batch(
            graph,
            torch.cat([self.forces[part] for part in atoms]),
            self.energies[picked],
            sizes,
        )


@dataclass
class _Errors:
    """Errors of a split by frame: sums of |dF| (meV/angstrom) and its square, components, |dE| (meV/atom)."""

    force_sums: NDArray[np.float64]
    force_squares: NDArray[np.float64]
    components: NDArray[np.int64]
    energies: NDArray[np.float64]
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
            "energy_mae": float(self.energies.mean()),
            "squared_loss": self.paper_loss,
        }


def _errors(model: Potential, frames: _Frames, scale: float) -> _Errors:
    """Errors of the model on frames; summed in float64."""
    count = len(frames.sizes)
    sums, squares, energies, totals = (np.zeros(count) for _ in range(4))
    for start in range(0, count, _EVALUATION_FRAMES):
        chosen = np.arange(start, min(start + _EVALUATION_FRAMES, count))
        batch = frames.batch(chosen)
        predicted, forces = model.energies_and_forces(batch.graph, create_graph=False)
        error = (forces - batch.forces).double() * (scale * MEV_PER_EV)
        sums[chosen] = torch.zeros(len(chosen), dtype=torch.float64).index_add_(
            0, batch.graph.frame, error.abs().sum(1)
        )
        squares[chosen] = torch.zeros(len(chosen), dtype=torch.float64).index_add_(
            0, batch.graph.frame, error.square().sum(1)
        )
        energy = (predicted.detach() - batch.energies).double() * (scale * MEV_PER_EV)
        totals[chosen] = energy.square()
        energies[chosen] = (energy.abs() / batch.atoms).numpy()
    components = 3 * frames.sizes.numpy()
    # eV^2 for a molecule's energy, (eV/angstrom)^2 for a force component, as in the study's public code
    paper_loss = (_PAPER_ENERGY * totals.mean() + _PAPER_FORCE * squares.sum() / components.sum()) / MEV_PER_EV**2
    return _Errors(sums, squares, components, energies, float(paper_loss))
