"""What language models share: a decoder of blocks over tied token embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from chemscale.models.operations import Packed, Past

MAX_POSITIONS = 2048
_INIT_STD = 0.02


class Decoder(nn.Module):
    """Tied token embeddings, blocks and a last norm; `position` is a table of learned positions, or None.

    A block takes features [B, L, width] or [T, width], a `Past` or None and a `Packed` or None, and gives features of
    the same shape. Where `recompute` is set, a training pass keeps of each block its input alone and computes the block
    anew when its gradient is asked for: a third more work for a fraction of the memory, and the same bits.
    """

    recompute = False

    def __init__(
        self, vocab_size: int, width: int, position: nn.Embedding | None, blocks: Sequence[nn.Module], norm: nn.Module
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, tokens: Tensor, pasts: list[Past] | None = None, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, L, V] of the next token, from tokens [B, L] (int64); or [T, V], from molecules end to end.

        Attention is causal, so that pads at the right end change nothing before them. With `pasts`, one for each block,
        the tokens follow those that the pasts hold, which then hold them, too. With `lengths` [B], the tokens [T] are
        those of molecules of so many tokens each, and no logit depends on another molecule.
        """
        return functional.linear(self.hidden(tokens, pasts, lengths), self.embedding.weight)

    def hidden(self, tokens: Tensor, pasts: list[Past] | None = None, lengths: Tensor | None = None) -> Tensor:
        """Features [B, L, width] or [T, width] of the last layer, after its norm; the arguments of `forward`."""
        packed = None if lengths is None else Packed(lengths)
        hidden = self.embedding(tokens)
        if self.position is not None:
            start = pasts[0].length if pasts else 0
            # a slice, which is faster than a look-up, where all rows have the same positions
            places = slice(start, start + tokens.shape[-1]) if packed is None else packed.positions
            hidden = hidden + self.position.weight[places]
        for number, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, None, packed, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = block(hidden, pasts[number] if pasts else None, packed)
        normed: Tensor = self.norm(hidden)
        return normed

    def initial(self, generator: torch.Generator, embedding_std: float) -> Iterator[tuple[str, Tensor]]:
        """Names and fp32 weights before training, drawn from `generator` one by one in the order of the modules.

        Shapes alone are taken of the model, which may be on the meta device: what trains a model that no process holds
        as a whole takes each weight in turn, and the bits are the same for all.

        Matrices are normal with standard deviation 0.02, biases 0; the tied embedding's standard deviation is
        `embedding_std`: at 0.02 small models stay on a plateau for hundreds of steps, since the same small matrix makes
        the logits.
        """
        for prefix, module in self.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                value = torch.empty(parameter.shape)
                if name.endswith("bias"):
                    value.zero_()
                elif isinstance(module, nn.Linear | nn.Embedding):
                    value.normal_(std=embedding_std if module is self.embedding else _INIT_STD, generator=generator)
                else:
                    value.fill_(1.0)  # the scales of norms
                yield name, value


def initialise(model: Decoder, generator: torch.Generator, embedding_std: float) -> None:
    """Give a model its weights before training, see `Decoder.initial`."""
    for name, value in model.initial(generator, embedding_std):
        model.get_parameter(name).data.copy_(value)
