"""What language models share: a decoder of blocks over tied token embeddings, and the memory of tokens so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_POSITIONS = 2048
_INIT_STD = 0.02


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


class Decoder(nn.Module):
    """Tied token embeddings, blocks and a last norm; `position` is a table of learned positions, or None.

    A block takes features [B, L, width] and a `Past` or None, and gives features of the same shape.
    """

    def __init__(
        self, vocab_size: int, width: int, position: nn.Embedding | None, blocks: Sequence[nn.Module], norm: nn.Module
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, tokens: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Logits [B, L, V] of the next token, from tokens [B, L] (int64).

        Attention is causal, so that pads at the right end change nothing before them. With `pasts`, one for each block,
        the tokens follow those that the pasts hold, which then hold them, too.
        """
        return functional.linear(self.hidden(tokens, pasts), self.embedding.weight)

    def hidden(self, tokens: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Features [B, L, width] of the last layer, after its norm; the arguments are those of `forward`."""
        hidden = self.embedding(tokens)
        if self.position is not None:
            start = pasts[0].length if pasts else 0
            hidden = hidden + self.position.weight[start : start + tokens.shape[1]]
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, pasts[number] if pasts else None)
        normed: Tensor = self.norm(hidden)
        return normed


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


def initialise(model: Decoder, generator: torch.Generator, embedding_std: float) -> None:
    """Draw all weights from `generator`, in the order of the modules.

    Matrices are normal with standard deviation 0.02, biases 0; the tied embedding's standard deviation is
    `embedding_std`: at 0.02 small models stay on a plateau for hundreds of steps, since the same small matrix makes
    the logits.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = embedding_std if module is model.embedding else _INIT_STD
            nn.init.normal_(module.weight, std=std, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
