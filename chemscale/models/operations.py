"""Attention and gelu of the language models, written for many small blocks on a CPU; torch's own elsewhere.

Cells of a scaling study are narrow and molecules are short. There torch's fused attention spends most of a step on
loops over tiny blocks, and its gelu on a slow tanh; the same formulas as a few large operations take half of the time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# The longest molecule whose scores are written out, [L, L] for each head; up to here no window cuts anything off, too
_WRITTEN_OUT = 256
# Below this many features of a head a product with so few columns is slower than its transpose, by up to four times
_THIN = 16
# Columns of scores are filled up to a multiple of this: softmax takes whole registers, twice as fast as parts or more
_COLUMNS = 16
_TANH = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715 * _TANH
# in place, which the function without "out" can't
_softmax_backward = torch.ops.aten._softmax_backward_data.out


class Past:
    """What one block keeps of the tokens so far, so that further ones cost no more than themselves."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: the most tokens that there will be."""
        self._capacity, self.length = capacity, 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values [B, heads, tokens, features], those of further tokens appended."""
        if self._keys is None or self._values is None:
            batch, heads, _, features = keys.shape
            self._keys = keys.new_empty(batch, heads, self._capacity, features)
            self._values = torch.empty_like(self._keys)
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows of the batch but these."""
        assert self._keys is not None
        assert self._values is not None
        self._keys, self._values = self._keys[rows], self._values[rows]


class Packed:
    """Molecules of so many tokens each, laid end to end: [T] tokens without a pad.

    `positions` [T] are those within a molecule. Attention alone needs a block of a row for each molecule, [B, L].
    """

    def __init__(self, lengths: Tensor) -> None:
        """`lengths`: tokens of each molecule [B], int64."""
        self.rows, self.length = len(lengths), int(lengths.max())
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        tokens = torch.arange(len(starts), device=lengths.device)
        self.positions = tokens - starts
        row = torch.arange(self.rows, device=lengths.device).repeat_interleave(lengths)
        self.places = row * self.length + self.positions

    def spread(self, packed: Tensor) -> Tensor:
        """[T, ...] as a block [B, L, ...], zero where a molecule is shorter."""
        block: Tensor = _Spread.apply(packed, self.places, self.rows * self.length)  # type: ignore[no-untyped-call]
        return block.view(self.rows, self.length, *packed.shape[1:])

    def collect(self, block: Tensor) -> Tensor:
        """What `spread` took, from a block."""
        packed: Tensor = _Collect.apply(block.flatten(0, 1), self.places)  # type: ignore[no-untyped-call]
        return packed


def attention(
    projected: Tensor, scale: float, past: Past | None, packed: Packed | None, window: int | None = None
) -> Tensor:
    """Causal attention [B, L, width] of queries, keys and values `projected` [B, L, 3, heads, width / heads].

    Where the tokens are packed, [T, width] of [T, 3, ...]; no token sees another molecule. With a past, the tokens
    follow those that it holds; it then holds them, too. `window` is how many tokens are seen, the own one included;
    None for all.
    """
    block = projected if packed is None else packed.spread(projected)
    length = block.shape[1]
    assert window is None or window >= _WRITTEN_OUT
    if past is None and length <= _WRITTEN_OUT and _plain(projected):
        attended: Tensor = _Attention.apply(block, scale)  # type: ignore[no-untyped-call]
    else:
        query, key, value = block.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.extended(key, value)
        seen = key.shape[2]
        mask = causal_mask(length, seen, window, projected.device)
        causal = mask is None and length == seen
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scale
        )
    attended = attended.transpose(1, 2).flatten(2)
    return attended if packed is None else packed.collect(attended)


def causal_mask(length: int, seen: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a query (row, of the last `length`) sees a key (column): itself and `window` - 1 tokens before it.

    None where every query of the whole sequence sees all before it, or there is one query, which sees all: fused
    attention does that without a mask.
    """
    if (window is None or seen <= window) and length in (1, seen):
        return None
    distance = torch.arange(seen - length, seen, device=device)[:, None] - torch.arange(seen, device=device)[None, :]
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def gelu(inner: Tensor) -> Tensor:
    """Gelu in its tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    if _plain(inner):
        activated: Tensor = _Gelu.apply(inner)  # type: ignore[no-untyped-call]
        return activated
    return functional.gelu(inner, approximate="tanh")


def _plain(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    """The products of all pairs of rows of [n, L, features] and [n, M, features]: [n, L, M]."""
    if left.shape[2] == 1:
        return left * right.transpose(1, 2)
    return torch.bmm(left, right.transpose(1, 2))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The products of [n, L, M] and [n, M, features], of whatever memory layout is fastest."""
    if right.shape[2] < _THIN:
        return torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(left, right)


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T) v, causal: [B, heads, L, features] of [B, L, 3, heads, features]; its gradient likewise."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, scale: float) -> Tensor:
        batch, length, _, heads, features = projected.shape
        columns = -(-length // _COLUMNS) * _COLUMNS
        padded = projected.new_zeros(3, batch * heads, columns, features)
        padded.view(3, batch, heads, columns, features)[:, :, :, :length] = projected.permute(2, 0, 3, 1, 4)
        query, key, value = padded
        scores = _pairs(query[:, :length], key)
        above = torch.full((length, columns), -torch.inf).triu_(1)
        torch.add(above, scores, alpha=scale, out=scores)
        weights = torch.softmax(scores, -1, out=scores)
        ctx.save_for_backward(padded, weights)
        ctx.scale, ctx.shape = scale, projected.shape
        return _product(weights, value).view(batch, heads, length, features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        padded, weights = ctx.saved_tensors
        batch, length, _, heads, features = ctx.shape
        query, key, value = padded
        query = query[:, :length]
        gradient = gradient.reshape(query.shape)
        of_scores = _pairs(gradient, value)
        _softmax_backward(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
        if ctx.scale != 1:
            of_scores.mul_(ctx.scale)
        parts = (
            _product(of_scores, key),
            _product(of_scores.transpose(1, 2), query)[:, :length],
            _product(weights.transpose(1, 2), gradient)[:, :length],
        )
        found = gradient.new_empty(ctx.shape)
        for place, part in zip(found.permute(2, 0, 3, 1, 4), parts, strict=True):
            place.copy_(part.view(batch, heads, length, features))
        return found, None


class _Spread(torch.autograd.Function):
    """Rows put at distinct places among zeros. Its gradient and that of `_Collect` are each other.

    Torch's own gradient of a selection adds up, which on a GPU is slow where it has to be deterministic.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return packed.new_zeros(count, *packed.shape[1:]).index_copy_(0, places, packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _Collect(torch.autograd.Function):
    """The rows at distinct places."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(block)
        return block.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, *gradient.shape[1:]).index_copy_(0, places, gradient), None


class _Gelu(torch.autograd.Function):
    """x sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3), which is the tanh form: tanh(u / 2) = 2 sigmoid(u) - 1."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor) -> Tensor:
        open_share = torch.addcmul(_scalar(_TANH), inner, inner, value=_CUBE).mul_(inner).sigmoid_()
        ctx.save_for_backward(inner, open_share)
        return inner * open_share

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        inner, open_share = ctx.saved_tensors
        slope = torch.addcmul(_scalar(_TANH), inner, inner, value=3 * _CUBE).mul_(inner)
        of_share = torch.addcmul(open_share, open_share, open_share, value=-1)
        return slope.mul_(of_share).add_(open_share).mul_(gradient)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
