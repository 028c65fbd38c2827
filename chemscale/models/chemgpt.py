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

    def forward(self, hidden: Tensor) -> Tensor:
        """Features [B, L, width] to features of the same shape."""
        batch, length, width = hidden.shape
        projected = self.query_key_value(self.norm_attention(hidden))
        query, key, value = projected.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = _window_mask(length, hidden.device) if self.local and length > WINDOW else None
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=1.0
        )
        hidden = hidden + self.attention_output(attended.transpose(1, 2).reshape(batch, length, width))
        inner = functional.gelu(self.mlp_input(self.norm_mlp(hidden)), approximate="tanh")
        output: Tensor = hidden + self.mlp_output(inner)
        return output


def _window_mask(length: int, device: torch.device) -> Tensor:
    """True where a query (row) sees a key (column): itself and the `WINDOW` - 1 tokens before it."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < WINDOW)


class ChemGPT(nn.Module):
    """GPT-Neo with `layers` blocks of `width` features and `heads` heads over `vocab_size` tokens."""

    def __init__(self, layers: int, width: int, heads: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(MAX_POSITIONS, width)
        self.blocks = nn.ModuleList(Block(width, heads, local=layer % 2 == 1) for layer in range(layers))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, L, V] of the next token, from tokens [B, L] (int64).

        Attention is causal, so that pads at the right end change nothing before them.
        """
        hidden = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.embedding.weight)


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
