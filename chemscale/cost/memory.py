"""The peak memory of training: what each rank of a cell holds beyond the bare process, term by term.

Language cells are counted from what the code keeps: the engine's flat tensors, what the gradients of a block's
operations save, the logits, DeepSpeed's partitions and buckets. A test holds the activations to what torch saves, and
`make test-memory` the sums to the measured peaks of ranks. Potentials have a first estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chemscale.cost.parameters import POSITIONS, count, gated_width
from chemscale.cost.passes import spares_memory, tokens_of_pass
from chemscale.families import architecture
from chemscale.grid import Cell

# Measured on Linux: a process after importing torch and the package, with a prepared data set.
BASE = 400 * 2**20
# tokens of the vocabulary of the quickstart's identifier table: what is taken before data are there
VOCABULARY = 600
_FLOAT = 4
# of the subset: places, predicted tokens, the order of an epoch and its batches, as int64
_PER_SAMPLE = 4 * 8
# Measured beside the tensors of a cell of width 256: torch's kernels, pages of their code included, and the records.
_WORKSPACE = 42 * 10**6
# models/operations.py: the longest molecule whose scores are written out in fp32, and the columns they are filled up to
_WRITTEN_OUT, _COLUMNS = 256, 16
# training/lm.py: tokens of an evaluation batch
_EVALUATION_TOKENS = 4096
# Where what a step frees stays in the heap, its holes are poorly used. Measured: the heap is 1.5 to 1.7 times as large
# as what a step needs at once.
_HEAP = 1.65
# Otherwise large blocks go back. Their ends share pages of 2 MB with nothing else: half a page each in the mean.
_HALF_PAGE = 2**20
# Measured: torch imports its compiler, 63 MB, when it is first asked to compute a block anew, and uses some of it.
_RECOMPUTE = 75 * 10**6
# What DeepSpeed sets up besides its tensors: fitted to the cells of `make test-memory`.
_DEEPSPEED = 60 * 10**6
# training/engine.py: elements of the parameters in a part of a checkpoint
_PART = 2**24
# training/zero.py: elements of DeepSpeed's buckets
_BUCKET = 2**24


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank at its peak, beyond the process after its imports.

    Held throughout: `weights` that the passes use, fp32 `masters` where those are others, `gradients`, `moments` of
    AdamW, the running `average`, and the `best` weights so far. At the moment that takes most: `activations` that
    gradients are made of, `logits` with their gradient, `transients` of the operation at work, and `buffers` in which
    DeepSpeed gathers and sends, or in which a checkpoint is put together. `data` is the order of the subset; its tokens
    are mapped from files. `rest` is what the gaps between blocks take, and torch itself.
    """

    weights: int = 0
    masters: int = 0
    gradients: int = 0
    moments: int = 0
    average: int = 0
    best: int = 0
    activations: int = 0
    logits: int = 0
    transients: int = 0
    buffers: int = 0
    data: int = 0
    rest: int = _WORKSPACE

    def parts(self) -> dict[str, int]:
        """The terms by name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """The sum of all terms."""
        return sum(self.parts().values())


def saved_by_block(family: str, knobs: Mapping[str, Any], tokens: int, longest: int, size: int) -> list[float]:
    """Bytes of each tensor that one block keeps for its gradient, its input included.

    Args:
        family: chemgpt or chemgpt_modern.
        knobs: width and heads.
        tokens: of the pass.
        longest: tokens of its longest molecule.
        size: bytes of an element: 4 in fp32, 2 in bf16.
    """
    width, heads = knobs["width"], knobs["heads"]
    wide = tokens * width * size
    written_out = size == _FLOAT and longest <= _WRITTEN_OUT
    if written_out:
        columns = -(-longest // _COLUMNS) * _COLUMNS
        # queries, keys and values, filled up; the softmax of the scores
        attention = [3 * wide * columns / longest, tokens * heads * columns * _FLOAT]
    else:
        # queries, keys and values, what was attended, and the logarithm of each softmax's sum
        attention = [3 * wide, wide, tokens * heads * _FLOAT]
    if family == "chemgpt":
        norm = [wide, wide]
        # gelu written out keeps its sigmoid beside its input
        mlp = [4 * wide] * (3 if size == _FLOAT else 2)
    else:
        assert family == "chemgpt_modern", family
        # the norm computes in fp32: its input, what it divides by a root, and its result
        norm = [tokens * width * _FLOAT] * 2 + [wide]
        # gate and inner features in one tensor, the gate's silu, the product
        inner = tokens * gated_width(width) * size
        mlp = [2 * inner, inner, inner]
    # of both norms, of attention, and what the matrix after attention multiplies
    return [*norm, *attention, wide, *norm, *mlp]


def language_memory(cell: Cell, vocab_size: int, longest: int, rank: int = 0) -> Memory:
    """The memory of a rank that trains a language cell; the first one, which writes the records, takes most.

    Args:
        cell: its knobs, precision, batch and engine.
        vocab_size: tokens of the vocabulary, special ones included.
        longest: tokens of the longest molecule, [CLS] and [SEP] included.
        rank: its number.
    """
    size = _FLOAT if cell.training["precision"] == "fp32" else 2
    held = _held(cell, vocab_size, size)
    moments = [*_backward(cell, vocab_size, longest - 1, size), _validation(cell, vocab_size, longest - 1, size)]
    moments += [] if cell.engine["zero"] == 0 else _moments_of_zero(cell, vocab_size, size, rank)
    worst = max(moments, key=lambda moment: sum(moment.values()))
    rest = float(_WORKSPACE + (_RECOMPUTE if cell.engine["recompute"] else 0))
    rest += _DEEPSPEED if cell.engine["zero"] else 0
    if spares_memory(cell):
        block = saved_by_block(cell.family, cell.knobs, tokens_of_pass(cell, longest - 1), longest - 1, size)
        large = sum(tensor > 2 * _HALF_PAGE for tensor in block)
        inputs = cell.knobs["layers"] if cell.engine["recompute"] else (cell.knobs["layers"] - 1) * large
        rest += (inputs + large) * _HALF_PAGE
    else:
        rest += (_HEAP - 1) * sum(worst.values())
    at_worst = {name: round(value) for name, value in worst.items()}
    return Memory(**held, **at_worst, data=_PER_SAMPLE * cell.num_samples, rest=round(rest))


def _held(cell: Cell, vocab_size: int, size: int) -> dict[str, int]:
    """What a rank holds from the first step to the last."""
    total = count(cell.family, cell.knobs, vocab_size).total
    stage, ranks = cell.engine["zero"], cell.engine["ranks"]
    share = total if stage == 0 else math.ceil(total / ranks)
    # where that is another one than the device's: on a CPU there is one memory
    in_host = cell.engine["offload"] and cell.engine["device"] == "cuda"
    updated = 0 if in_host else share
    # with offload, gradients in fp32 stay beside those that are added up
    offloaded = _FLOAT * updated if cell.engine["offload"] else 0
    return {
        "weights": size * (share if stage == 3 else total),
        # DeepSpeed keeps them apart in fp32, too
        "masters": _FLOAT * updated if size != _FLOAT or stage else 0,
        # in stages 1 and 2 they come and go with each step
        "gradients": {0: _FLOAT, 3: size}.get(stage, 0) * share + offloaded,
        "moments": 2 * _FLOAT * updated,
        "average": _FLOAT * updated if cell.training["average"] else 0,
        "best": _FLOAT * updated,
    }


def _backward(cell: Cell, vocab_size: int, longest: int, size: int) -> list[dict[str, float]]:
    """What a pass takes at the logits, in the last block, whose gradient comes first, and in the first one."""
    knobs, engine = cell.knobs, cell.engine
    width, layers = knobs["width"], knobs["layers"]
    tokens = tokens_of_pass(cell, longest)
    block = sum(saved_by_block(cell.family, knobs, tokens, longest, size))
    # of the last norm
    ends = tokens * width * (2 * size if cell.family == "chemgpt" else 2 * _FLOAT + size)
    inputs = tokens * width * size * layers
    kept = inputs if engine["recompute"] else layers * block
    in_block = inputs - tokens * width * size + block if engine["recompute"] else kept
    transients = _in_block(cell.family, knobs, tokens, size) + size * _largest(cell, vocab_size)
    # gradients of the passes so far; and of this one, with what is gathered and sent meanwhile
    before = _pending(cell, vocab_size, size) if cell.training["batch_tokens"] > engine["ranks"] * tokens else 0.0
    sending = _sending(cell, vocab_size, size)
    gathered = sending if engine["zero"] == 3 else 0
    return [
        # the softmax, its gradient and that of the logits
        {"activations": kept + ends, "logits": 3.0 * tokens * vocab_size * _FLOAT, "buffers": before + gathered},
        {"activations": in_block + ends, "transients": transients, "buffers": before + gathered},
        {"activations": block, "transients": transients, "buffers": _pending(cell, vocab_size, size) + sending},
    ]


def _in_block(family: str, knobs: Mapping[str, Any], tokens: int, size: int) -> float:
    """What the gradient of a block's activation takes beyond what the block keeps."""
    wide: int = tokens * knobs["width"] * size
    if family == "chemgpt":
        # gradients before and after the gelu and its slope, less its result and the residuals' input, which are used up
        return (7 if size == _FLOAT else 3) * wide
    # gradients of the product and of its factors, less what is used up by then
    return 4 * wide


def _large_matrices(cell: Cell) -> int:
    """The number of matrices in a model's blocks that begin on a page of 2 MB when they are put together in fp32."""
    width: int = cell.knobs["width"]
    inner = (4 * width, 4 * width) if cell.family == "chemgpt" else (2 * gated_width(width), gated_width(width))
    large = sum(_FLOAT * width * columns > 2 * _HALF_PAGE for columns in (3 * width, width, *inner))
    return int(cell.knobs["layers"]) * large


def _largest(cell: Cell, vocab_size: int) -> int:
    """Elements of the largest parameter, whose gradient is there at once."""
    width: int = cell.knobs["width"]
    table = max(vocab_size, POSITIONS if cell.family == "chemgpt" else 0)
    matrix = 4 * width if cell.family == "chemgpt" else 2 * gated_width(width)
    return width * max(table, matrix)


def _pending(cell: Cell, vocab_size: int, size: int) -> float:
    """Bytes of gradients that await an update of ZeRO 1 or 2; the other engines hold them throughout."""
    total = count(cell.family, cell.knobs, vocab_size).total
    stage, ranks = int(cell.engine["zero"]), int(cell.engine["ranks"])
    return {1: float(size * total), 2: size * total / ranks}.get(stage, 0.0)


def _sending(cell: Cell, vocab_size: int, size: int) -> int:
    """Bytes that a backward pass takes to send and gather: a bucket of gradients in stages 1 and 2, seven in stage 3.

    Those are gradients as they come, end to end, and cut to be shared; and weights in use and fetched ahead. Fitted to
    the bf16 cell of `make test-memory`, in which a backward pass is what takes most.
    """
    bucket = _bucket(cell, vocab_size, size)
    return {0: 0, 3: 7 * bucket}.get(cell.engine["zero"], bucket)


def _gathered(cell: Cell, vocab_size: int, size: int) -> int:
    """Bytes of stage 3's bucket of gradients, which stays, and of weights in use and fetched ahead."""
    return 3 * _bucket(cell, vocab_size, size) if cell.engine["zero"] == 3 else 0


def _bucket(cell: Cell, vocab_size: int, size: int) -> int:
    return size * min(_BUCKET, count(cell.family, cell.knobs, vocab_size).total)


def _moments_of_zero(cell: Cell, vocab_size: int, size: int, rank: int) -> list[dict[str, float]]:
    """What DeepSpeed's update takes; and the first rank to put weights together, some for a checkpoint, all at last."""
    total = count(cell.family, cell.knobs, vocab_size).total
    share = total / cell.engine["ranks"]
    kinds = 4 + bool(cell.training["average"])
    part = min(total, _PART + _largest(cell, vocab_size))
    # a rank's gradients side by side in fp32, and updated weights on their way
    gathered = _gathered(cell, vocab_size, size)
    moments = [_pending(cell, vocab_size, size) + _FLOAT * share + (gathered or _bucket(cell, vocab_size, size))]
    if rank == 0:
        whole = _FLOAT * total + _large_matrices(cell) * _HALF_PAGE
        moments += [gathered + kinds * whole * part / total, gathered + whole]
    return [{"buffers": moment} for moment in moments]


def _validation(cell: Cell, vocab_size: int, longest: int, size: int) -> dict[str, float]:
    """What an evaluation batch takes: a block's activation, or the logits and their softmax."""
    tokens = _EVALUATION_TOKENS
    width = cell.knobs["width"]
    if cell.family == "chemgpt":
        block = (14 if size == _FLOAT else 10) * tokens * width * size
    else:
        block = 4 * tokens * gated_width(width) * size + 2 * tokens * width * size
    logits = tokens * vocab_size * (2 * _FLOAT + (size if size != _FLOAT else 0)) + tokens * width * size
    return {"transients": max(block, logits), "buffers": _gathered(cell, vocab_size, size)}


def peak_bytes(family: str, knobs: Mapping[str, Any], batch_atoms: int) -> int:
    """Peak bytes of training a potential in fp32; good to a factor of two for small cells, whose process dominates.

    State is weights, gradient, two moments and the average; activations are counted per edge from the layers' widths,
    twice through.
    """
    state = 5 * _FLOAT * count(family, knobs, None).total
    family = architecture(family)
    if family == "allegro":
        components = (knobs["l_max"] + 1) ** 2
        layer = 4 * knobs["width"] + knobs["tensors"] * components * (4 + components)
        per_edge = knobs["num_radial"] + knobs["interactions"] * layer
    else:
        features = {"schnet": 4, "spookynet": 30}.get(family, 14)
        per_edge = knobs["num_radial"] + knobs["interactions"] * knobs["width"] * features
    return int(BASE + state + 4 * _FLOAT * batch_atoms * 10 * per_edge)
