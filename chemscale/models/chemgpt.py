"""ChemGPT: a GPT-Neo decoder over SELFIES tokens (Frey et al. 2023; Black et al. 2021, doi 10.5281/zenodo.5297715).

Pre-LayerNorm blocks, learned positions, tied embeddings, attention without the usual 1/sqrt(d), global and local
attention in turn (the local one sees the last 256 tokens), gelu in its tanh form, no dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chemscale.models.decoder import MAX_POSITIONS, Decoder, initialise
from chemscale.models.operations import Packed, Past, attention, gelu

WINDOW = 256
_EPSILON = 1e-5


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

    def forward(self, hidden: Tensor, past: Past | None = None, packed: Packed | None = None) -> Tensor:
        """Features to features of the same shape, see `Decoder`."""
        projected = self.query_key_value(self.norm_attention(hidden)).unflatten(-1, (3, self.heads, -1))
        attended = attention(projected, 1.0, past, packed, WINDOW if self.local else None)
        hidden = hidden + self.attention_output(attended)
        output: Tensor = hidden + self.mlp_output(gelu(self.mlp_input(self.norm_mlp(hidden))))
        return output


class ChemGPT(Decoder):
    """GPT-Neo with `layers` blocks of `width` features and `heads` heads over `vocab_size` tokens."""

    def __init__(self, layers: int, width: int, heads: int, vocab_size: int) -> None:
        position = nn.Embedding(MAX_POSITIONS, width)
        blocks = [Block(width, heads, local=layer % 2 == 1) for layer in range(layers)]
        super().__init__(vocab_size, width, position, blocks, nn.LayerNorm(width, eps=_EPSILON))


def outline(knobs: dict[str, Any], vocab_size: int) -> ChemGPT:
    """A model of a size before its weights are drawn; on torch's default device, of which meta holds no weights."""
    return ChemGPT(knobs["layers"], knobs["width"], knobs["heads"], vocab_size)


def build(knobs: dict[str, Any], vocab_size: int | None, generator: torch.Generator, embedding_std: float) -> ChemGPT:
    """A ChemGPT of a size, its weights drawn from `generator` as `initialise` says."""
    assert vocab_size is not None
    model = outline(knobs, vocab_size)
    initialise(model, generator, embedding_std)
    return model
