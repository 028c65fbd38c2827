"""Which tensors an equivariant potential couples: what its parameters and products are counted from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

# degree and parity of a set of components that turn among themselves
Irrep = tuple[int, int]


def components(irreps: Sequence[Irrep]) -> int:
    """The number of components of all irreps."""
    return sum(2 * degree + 1 for degree, _ in irreps)


def tensor_plan(l_max: int, layers: int) -> list[list[Irrep]]:
    """The irreps of an edge's tensor features before each layer, and of what the last one gives: the scalar.

    Between layers stands every irrep up to `l_max` that products with the environment reach and that can still
    contribute to a scalar at the end.
    """
    environment = spherical_irreps(l_max)
    order = [(degree, parity) for degree in range(l_max + 1) for parity in (1, -1)]
    plan = [environment]
    for layer in range(layers):
        allowed = order if layer < layers - 1 else [(0, 1)]
        plan.append([irrep for irrep in allowed if any(_couples(one, irrep, environment) for one in plan[-1])])
    for layer in reversed(range(1, layers)):
        plan[layer] = [
            one for one in plan[layer] if any(_couples(one, irrep, environment) for irrep in plan[layer + 1])
        ]
    return plan


def spherical_irreps(l_max: int) -> list[Irrep]:
    """The irreps of the spherical harmonics up to a degree."""
    return [(degree, (-1) ** degree) for degree in range(l_max + 1)]


def paths(inputs: Sequence[Irrep], l_max: int, outputs: Sequence[Irrep]) -> list[tuple[Irrep, Irrep, Irrep]]:
    """Every (input, environment, output) that a product couples, by output, then input, then environment."""
    return [
        (one, other, output)
        for output in outputs
        for one in inputs
        for other in spherical_irreps(l_max)
        if _allowed(one, other, output)
    ]


class ProductSize(NamedTuple):
    """Of one layer's tensor product: its paths, and the components that go in, that meet them, and that come out."""

    paths: int
    inputs: int
    environment: int
    outputs: int


@cache
def product_sizes(l_max: int, layers: int) -> tuple[ProductSize, ...]:
    """The sizes of all products of a model; kept, since a training loop asks at every step."""
    plan, environment = tensor_plan(l_max, layers), components(spherical_irreps(l_max))
    return tuple(
        ProductSize(len(paths(inputs, l_max, outputs)), components(inputs), environment, components(outputs))
        for inputs, outputs in pairwise(plan)
    )


def _allowed(one: Irrep, other: Irrep, output: Irrep) -> bool:
    return abs(one[0] - other[0]) <= output[0] <= one[0] + other[0] and output[1] == one[1] * other[1]


def _couples(one: Irrep, output: Irrep, environment: Sequence[Irrep]) -> bool:
    return any(_allowed(one, other, output) for other in environment)
