"""Training and testing of one language cell, top to bottom: data, model, loop, test, records.

The loss is the mean over the predicted tokens of a batch, in nats; every token but the first of a molecule is
predicted, pads never. D and `tokens_seen` count predicted tokens.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.flops import language_flops
from chemscale.cost.parameters import count
from chemscale.data.arrays import LanguageData
from chemscale.data.tokenizer import PAD, Tokenizer
from chemscale.models import registry, weights
from chemscale.training.engine import make
from chemscale.training.job import Job
from chemscale.training.metrics import cluster_sums
from chemscale.training.ranks import Ranks, device
from chemscale.training.sampler import TokenBatches, micro_batches, total_steps
from chemscale.training.schedule import stable_steps, validation_steps

# Computed tokens per evaluation batch: large enough to be fast, small enough to stay in the cache.
_EVALUATION_TOKENS = 4096


def train(job: Job, attempts: int) -> None:
    """Train the job's cell and leave its records in `checkpoint/finished/`.

    Raises:
        Stopped: a signal asked to stop; a checkpoint was written.
        DivergedError: a loss is not finite.
    """
    cell = job.cell
    settings, ranks = cell.training, job.ranks

    # --- data: the subset of this seed, and the fixed validation and test splits --------------------------------------
    data = job.datasets.language(cell.data["key"])
    tokenizer = Tokenizer.load(job.datasets.folder(cell.data["key"]) / "tokenizer.json")
    # a single pass follows the draw, so that a smaller subset's is its beginning
    once = cell.protocol["kind"] == "one_pass"
    subset = job.subset(data, drawn=once)
    validation = job.split(data, "validation")
    test = job.split(data, "test")
    predicted = _predicted(data, subset.index)
    sampler = TokenBatches(predicted, settings["batch_tokens"], cell.seed, given_order=once)
    steps = total_steps(cell.protocol, sampler)
    shared = min(stable_steps(steps, settings), sampler.settled()) if cell.shares_steps else 0

    # --- model and engine ---------------------------------------------------------------------------------------------
    model, initial = registry.outline(
        cell.family, cell.knobs, vocab_size=len(tokenizer), seed=cell.seed, embedding_std=settings["embedding_std"]
    )
    model.recompute = cell.engine["recompute"]
    engine = make(model, cell, ranks, initial, device(cell.engine["device"]))

    # --- the loop -----------------------------------------------------------------------------------------------------
    progress, best, curve = job.resume(engine, shared)
    if best is None:
        best = engine.weights()  # the room for them: found later, it would break up what a step's passes use again
    to_validate = set(validation_steps(steps, settings))
    for chosen in sampler.from_step(progress.step):
        if progress.step == steps or progress.stale == cell.protocol.get("patience"):
            break
        begun = time.monotonic()
        rate = job.rate(progress.step, steps)
        num_predicted = int(predicted[chosen].sum())
        loss = 0.0
        for part in micro_batches(predicted, chosen, ranks.size, cell.engine["micro_tokens"])[ranks.rank]:
            # the loss of the step, whatever its parts: each token weighs the same
            share = _loss_per_token(engine.module, data, subset.index[part]).sum() / num_predicted
            engine.backward(share)
            loss += share.item()
        norm = engine.update(rate)
        (loss,) = ranks.totals([loss])
        progress.steps_s += time.monotonic() - begun
        progress.step += 1
        progress.samples_seen += len(chosen)
        progress.seen += num_predicted
        for name, value in language_flops(cell.family, cell.knobs, len(tokenizer), predicted[chosen].tolist()).items():
            progress.flops[name] = progress.flops.get(name, 0) + value
        curve.write(
            step=progress.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens_seen=progress.seen,
            flops_full=progress.flops["flops_full"],
        )
        if progress.step in to_validate:
            with engine.evaluated():
                val_loss = _mean_loss(engine.module, data, validation.index, ranks)
            curve.write(step=progress.step, val_loss=val_loss)
            progress.stale += 1
            if val_loss < progress.best_loss:
                progress.best_loss, progress.best_step, progress.stale = val_loss, progress.step, 0
                best = engine.weights(into=best)
            job.after_validation(engine, progress, best, curve)
        job.after_step(engine, progress, best, curve)
    curve.close()

    # --- test: the weights of the best validation ---------------------------------------------------------------------
    with engine.evaluated(best):
        sums = _loss_per_molecule(engine.module, data, test.index, ranks)
    named = engine.named(best)
    if ranks.writes:
        weights.save(
            job.checkpoint.folder, named, {"family": cell.family, "knobs": cell.knobs, "vocab": len(tokenizer)}
        )
    clusters = cluster_sums(data.cluster_names, data.test_clusters, sums, _predicted(data, test.index))

    # --- records ------------------------------------------------------------------------------------------------------
    parameters = count(cell.family, cell.knobs, len(tokenizer))
    job.finish(
        {
            "num_params": parameters.total,
            "num_params_non_embedding": parameters.non_embedding,
            "tokens_seen": progress.seen,
            "tokens_unique": int(predicted.sum()),
            "frames_seen": None,
            "frames_unique": None,
            **progress.flops,
            "epochs": progress.samples_seen / cell.num_samples,
            "subset_digest": subset.digest,
            "val_digest": validation.digest,
            "test_digest": test.digest,
            "evaluation_digests": {},
            "test_metrics": {},
            "reasons": dict.fromkeys(("frames_seen", "frames_unique"), "a language cell has no frames"),
        },
        progress,
        clusters,
        attempts,
    )


def _predicted(data: LanguageData, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of predicted tokens of molecules: each one's first token is given."""
    predicted: NDArray[np.int64] = data.offsets[index + 1] - data.offsets[index] - 1
    return predicted


def _loss_per_token(model: nn.Module, data: LanguageData, index: NDArray[np.int64]) -> Tensor:
    """Loss of each predicted token of molecules in nats [T], molecule after molecule.

    No molecule is one token without a loss: a pass that others wait for.
    """
    if not len(index):
        inputs, targets, lengths = torch.tensor([PAD]), torch.tensor([PAD]), torch.tensor([1])
    else:
        predicted = _predicted(data, index)
        ends = predicted.cumsum()
        places = np.arange(ends[-1]) + np.repeat(data.offsets[index] - (ends - predicted), predicted)
        inputs, targets = (torch.from_numpy(data.tokens[places + shift].astype(np.int64)) for shift in (0, 1))
        lengths = torch.from_numpy(predicted)
    place = next(model.parameters()).device
    logits = model(inputs.to(place), lengths=lengths.to(place)).float()
    return functional.cross_entropy(logits, targets.to(place), ignore_index=PAD, reduction="none")


@torch.no_grad()
def _loss_per_molecule(
    model: nn.Module, data: LanguageData, index: NDArray[np.int64], ranks: Ranks
) -> NDArray[np.float64]:
    """Summed loss of each molecule in nats, in the order of `index`; summed in float64.

    The ranks share the batches, which are the same for any number of them, and so are the sums to the last bit.
    """
    predicted = _predicted(data, index)
    order = np.argsort(predicted, kind="stable")
    batches = np.split(order, np.flatnonzero(np.diff(predicted[order].cumsum() // _EVALUATION_TOKENS)) + 1)
    sums = torch.zeros(len(index), dtype=torch.float64)
    # all ranks make as many passes
    batches += [order[:0]] * (-len(batches) % ranks.size)
    for batch in batches[ranks.rank :: ranks.size]:
        loss = _loss_per_token(model, data, index[batch]).double().cpu().numpy()
        if len(batch):
            firsts = predicted[batch].cumsum() - predicted[batch]
            sums[batch] = torch.from_numpy(np.add.reduceat(loss, firsts))
    ranks.add_up(sums)
    return sums.numpy()


def _mean_loss(model: nn.Module, data: LanguageData, index: NDArray[np.int64], ranks: Ranks) -> float:
    """Loss of a split in nats per token, token-weighted."""
    return float(_loss_per_molecule(model, data, index, ranks).sum() / _predicted(data, index).sum())
