"""Training FLOPs of what was seen: matrix products, a multiplication and an addition each counted as one.

Elementwise work, gathers and sums over edges are not counted. The counts are tested against torch's profiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chemscale.cost.parameters import allegro_matrices, count, decoder_matrices
from chemscale.cost.tensors import product_sizes


def language_flops(family: str, knobs: Mapping[str, Any], vocab_size: int, lengths: Iterable[int]) -> dict[str, int]:
    """FLOPs of one training pass (forward and backward) over molecules of so many computed tokens each.

    Returns:
        flops_6n: 6 N for each token, N without embeddings (Kaplan et al. 2020);
        flops_attention: the score and value products, over full squares of each molecule's length;
        flops_full: all matrix products, attention and the last layer's logits included.
    """
    layers, width = knobs["layers"], knobs["width"]
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    non_embedding = count(family, knobs, vocab_size).non_embedding
    attention = 12 * layers * width * squares
    return {
        "flops_6n": 6 * non_embedding * tokens,
        "flops_attention": attention,
        "flops_full": 6 * tokens * (layers * decoder_matrices(family, width) + vocab_size * width) + attention,
    }


# Matrix products that a linear layer takes part in during a step on energies and forces. Its input depends on the
# positions: forward, the forces' backward, and two each when those two are differentiated. Its input does not: forward
# and its two gradients. The last layer's incoming gradient is constant, which saves one.
_MOVING, _STILL, _LAST = 6, 3, 5
# of two inputs that both depend on the positions; of weights with a constant, in which no atom takes part
_BOTH_MOVING, _CONSTANT = 9, 2


def potential_flops(family: str, knobs: Mapping[str, Any], *, atoms: int, edges: int) -> dict[str, int]:
    """FLOPs of one training step on energies and forces over so many atoms and directed edges.

    Returns:
        flops_full: all matrix products of the energy, the forces and the second differentiation.
    """
    if family == "allegro":
        return {"flops_full": 2 * _allegro_products(knobs, atoms, edges)}
    width, layers, radial = knobs["width"], knobs["interactions"], knobs["num_radial"]
    readout = max(1, width // 2)
    products = _MOVING * atoms * width * readout + _LAST * atoms * readout
    square = width**2
    if family == "schnet":
        products += _MOVING * edges * layers * (radial * width + square)
        products += _MOVING * atoms * layers * 2 * square
        products += atoms * square * (_STILL + _MOVING * (layers - 1))
    elif not knobs["vectors"]:
        products += _MOVING * edges * layers * radial * width
        products += _MOVING * atoms * layers * 2 * square
        products += atoms * 2 * square * (_STILL + _MOVING * (layers - 1))
    else:
        assert family == "painn", family
        products += _MOVING * edges * layers * 3 * radial * width
        # mixing acts on three vector components; scalars pass through two products of their own
        products += _MOVING * atoms * layers * (3 * 2 * square + 2 * square + 3 * square)
        products += atoms * 4 * square * (_STILL + _MOVING * (layers - 1))
    return {"flops_full": 2 * products}


def _allegro_products(knobs: Mapping[str, Any], atoms: int, edges: int) -> int:
    # the last layer of the readout is as wide as that is
    products = edges * (_MOVING * allegro_matrices(knobs) - (_MOVING - _LAST) * max(1, knobs["width"] // 2))
    for size in product_sizes(knobs["l_max"], knobs["interactions"]):
        matrix = knobs["tensors"] * size.inputs * size.outputs
        products += (_CONSTANT * size.paths + _MOVING * atoms) * matrix * size.environment
        products += _BOTH_MOVING * edges * matrix
    return int(products)
