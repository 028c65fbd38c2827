"""ChemGPT: a GPT-Neo decoder over SELFIES tokens (Frey et al. 2023; Black et al. 2021, doi 10.5281/zenodo.5297715).

Pre-LayerNorm blocks, learned positions, tied embeddings, attention without the usual 1/sqrt(d), global and local
attention in turn (the local one sees the last 256 tokens), gelu in its tanh form, no dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_POSITIONS = 2048
WINDOW = 256
_INIT_STD = 0.02
_EPSILON = 1e-5


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


class Block(nn.Module):
    """One decoder block; `local` attention sees the last `WINDOW` tokens, itself included."""

    def __init__(self, width: int, heads: int, local: bool) -> None:
        super().__init__()
        self.heads, self.local = heads, local
        self.norm_attention = nn.LayerNorm(width, eps=_EPSILON)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp_input = nn.Linear(width, 4 * width)
        self.mlp_output = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, past: Past | None = None) -> Tensor:
        """Features [B, L, width] to features of the same shape; with a past, of the tokens that follow it."""
        batch, length, width = hidden.shape
        projected = self.query_key_value(self.norm_attention(hidden))
        query, key, value = projected.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.extended(key, value)
        seen = key.shape[2]
        mask = None
        if (self.local and seen > WINDOW) or 1 < length < seen:
            mask = _mask(length, seen, WINDOW if self.local else seen, hidden.device)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None and length == seen, scale=1.0
        )
        hidden = hidden + self.attention_output(attended.transpose(1, 2).reshape(batch, length, width))
        inner = functional.gelu(self.mlp_input(self.norm_mlp(hidden)), approximate="tanh")
        output: Tensor = hidden + self.mlp_output(inner)
        return output


def _mask(length: int, seen: int, window: int, device: torch.device) -> Tensor:
    """True where a query (row, of the last `length`) sees a key (column): itself and `window` - 1 tokens before it."""
    distance = torch.arange(seen - length, seen, device=device)[:, None] - torch.arange(seen, device=device)[None, :]
    return (distance >= 0) & (distance < window)


class ChemGPT(nn.Module):
    """GPT-Neo with `layers` blocks of `width` features and `heads` heads over `vocab_size` tokens."""

    def __init__(self, layers: int, width: int, heads: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(MAX_POSITIONS, width)
        self.blocks = nn.ModuleList(Block(width, heads, local=layer % 2 == 1) for layer in range(layers))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, tokens: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Logits [B, L, V] of the next token, from tokens [B, L] (int64).

        Attention is causal, so that pads at the right end change nothing before them. With `pasts`, one for each block,
        the tokens follow those that the pasts hold, which then hold them, too.
        """
        return functional.linear(self.hidden(tokens, pasts), self.embedding.weight)

    def hidden(self, tokens: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Features [B, L, width] of the last layer, after its norm; the arguments are those of `forward`."""
        start = pasts[0].length if pasts else 0
        hidden = self.embedding(tokens) + self.position.weight[start : start + tokens.shape[1]]
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, pasts[number] if pasts else None)
        normed: Tensor = self.norm(hidden)
        return normed


def build(knobs: dict[str, Any], vocab_size: int | None, generator: torch.Generator, embedding_std: float) -> ChemGPT:
    """A ChemGPT of a size, its weights drawn from `generator`.

    Matrices are normal with standard deviation 0.02, biases 0; the tied embedding's standard deviation is
    `embedding_std`: at 0.02 small models stay on a plateau for hundreds of steps, since the same small matrix makes
    the logits.
    """
    assert vocab_size is not None
    model = ChemGPT(knobs["layers"], knobs["width"], knobs["heads"], vocab_size)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = embedding_std if module is model.embedding else _INIT_STD
            nn.init.normal_(module.weight, std=std, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
