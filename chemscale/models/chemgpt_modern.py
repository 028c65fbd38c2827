"""The second block style of a molecular language model: rotary positions, RMSNorm, SwiGLU, scaled attention, no biases.

The architecture is Llama's (Touvron et al. 2023, arXiv 2302.13971) with tied embeddings; rotary positions by Su et al.
2021 (arXiv 2104.09864), SwiGLU by Shazeer 2020 (arXiv 2002.05202), its inner width 8/3 of the width, so that a block
has as many weights in matrices as GPT-Neo's: 12 width^2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import gated_width
from chemscale.models.decoder import Decoder, initialise
from chemscale.models.operations import Packed, Past, attention

_EPSILON = 1e-5
ROTARY_BASE = 10_000.0


def _rotated(features: Tensor, positions: Tensor) -> Tensor:
    """Queries and keys [..., tokens, 2, heads, d] turned by the angles of the tokens' positions [tokens].

    Feature i and feature i + d/2 are the two coordinates that an angle turns.
    """
    half = features.shape[-1] // 2
    frequency = ROTARY_BASE ** (-torch.arange(half, device=features.device, dtype=torch.float32) / half)
    angle = positions[:, None, None, None] * frequency
    cosine, sine = angle.cos().to(features.dtype), angle.sin().to(features.dtype)
    first, second = features[..., :half], features[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Block(nn.Module):
    """One decoder block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width, eps=_EPSILON)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width, eps=_EPSILON)
        self.mlp_input = nn.Linear(width, 2 * gated_width(width), bias=False)
        self.mlp_output = nn.Linear(gated_width(width), width, bias=False)

    def forward(self, hidden: Tensor, past: Past | None = None, packed: Packed | None = None) -> Tensor:
        """Features to features of the same shape, see `Decoder`."""
        projected = self.query_key_value(self.norm_attention(hidden)).unflatten(-1, (3, self.heads, -1))
        if packed is None:
            start = 0 if past is None else past.length
            positions = torch.arange(start, start + hidden.shape[1], device=hidden.device)
        else:
            positions = packed.positions
        pair, value = projected.split((2, 1), -3)
        projected = torch.cat([_rotated(pair, positions), value], -3)
        attended = attention(projected, projected.shape[-1] ** -0.5, past, packed)
        hidden = hidden + self.attention_output(attended)
        gate, inner = self.mlp_input(self.norm_mlp(hidden)).chunk(2, -1)
        output: Tensor = hidden + self.mlp_output(functional.silu(gate) * inner)
        return output


class ChemGPTModern(Decoder):
    """`layers` blocks of `width` features and `heads` heads over `vocab_size` tokens."""

    def __init__(self, layers: int, width: int, heads: int, vocab_size: int) -> None:
        blocks = [Block(width, heads) for _ in range(layers)]
        super().__init__(vocab_size, width, None, blocks, nn.RMSNorm(width, eps=_EPSILON))


def outline(knobs: dict[str, Any], vocab_size: int) -> ChemGPTModern:
    """A model of a size before its weights are drawn; on torch's default device, of which meta holds no weights."""
    return ChemGPTModern(knobs["layers"], knobs["width"], knobs["heads"], vocab_size)


def build(
    knobs: dict[str, Any], vocab_size: int | None, generator: torch.Generator, embedding_std: float
) -> ChemGPTModern:
    """A model of a size, its weights drawn from `generator` as `initialise` says."""
    assert vocab_size is not None
    model = outline(knobs, vocab_size)
    initialise(model, generator, embedding_std)
    return model
