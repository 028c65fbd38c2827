"""The continuous-filter convolution of SchNet (Schütt et al. 2017, arXiv 1706.08566), and of what varies it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from chemscale.models.graph import Graph
from chemscale.models.radial import cut_linear


class Interaction(nn.Module):
    """A continuous-filter convolution and its atom-wise layers, with an activation between those."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.filter_output = nn.Linear(width, width)
        self.atom_input = nn.Linear(width, width, bias=False)
        self.atom_hidden = nn.Linear(width, width)
        self.atom_output = nn.Linear(width, width)

    def forward(self, features: Tensor, hidden_filter: Tensor, cut: Tensor, graph: Graph) -> Tensor:
        """Features [A, width] to their update of the same shape.

        `hidden_filter` [P, width] is the filters' first layer before its activation, `cut` [P] the cutoff's factor.
        """
        (filters,) = cut_linear(self.filter_output, self.activation(hidden_filter), cut)
        gathered = graph.sum_of_edges(graph.sent(self.atom_input(features)) * graph.of_pair(filters))
        update: Tensor = self.atom_output(self.activation(self.atom_hidden(gathered)))
        return update
