"""Training FLOPs of what was seen: matrix products, a multiplication and an addition each counted as one.

Elementwise work, gathers and sums over edges are not counted. The counts are tested against torch's profiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chemscale.cost.parameters import allegro_matrices, count, decoder_matrices
from chemscale.cost.tensors import product_sizes
from chemscale.families import architecture


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
# of two inputs that both depend on the positions; of weights with a constant, in which no position takes part
_BOTH_MOVING, _CONSTANT = 9, 2
# of a constant with an input that depends on the positions, and with one that does not
_MOVING_WITH_CONSTANT, _STILL_WITH_CONSTANT = 4, 2


def potential_flops(
    family: str, knobs: Mapping[str, Any], *, atoms: int, edges: int, pairs: int | None = None
) -> dict[str, int]:
    """FLOPs of one training step on energies and forces over so many atoms and directed edges.

    Frames are neutral and without unpaired electrons.

    Args:
        family: a potential.
        knobs: its size.
        atoms: of all frames.
        edges: of all frames, each pair both ways.
        pairs: of atoms that attention multiplies out, the square of the atoms of each pass; None for one pass.

    Returns:
        flops_full: all matrix products of the energy, the forces and the second differentiation.
    """
    family = architecture(family)
    if family == "allegro":
        return {"flops_full": 2 * _allegro_products(knobs, atoms, edges)}
    if family == "spookynet":
        return {"flops_full": 2 * _spookynet_products(knobs, atoms, edges, atoms**2 if pairs is None else pairs)}
    width, layers, radial = knobs["width"], knobs["interactions"], knobs["num_radial"]
    # filters of distances are computed once a pair of atoms, and take the factor of the cutoff as one more input
    filtered = edges if family == "baseline" else edges // 2
    readout = max(1, width // 2)
    products = _MOVING * atoms * width * readout + _LAST * atoms * readout
    square = width**2
    if family in ("schnet", "baseline"):
        radial *= 1 if family == "schnet" else 4
        products += _MOVING * filtered * layers * (radial * width + (width + 1) * width)
        products += _MOVING * atoms * layers * 2 * square
        products += atoms * square * (_STILL + _MOVING * (layers - 1))
    elif not knobs["vectors"]:
        products += _MOVING * filtered * layers * (radial + 1) * width
        products += _MOVING * atoms * layers * 2 * square
        products += atoms * 2 * square * (_STILL + _MOVING * (layers - 1))
    else:
        assert family == "painn", family
        products += _MOVING * filtered * layers * 3 * (radial + 1) * width
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


def _spookynet_products(knobs: Mapping[str, Any], atoms: int, edges: int, pairs: int) -> int:
    width, layers, square = knobs["width"], knobs["interactions"], knobs["width"] ** 2
    products = _MOVING * (edges // 2) * layers * knobs["num_radial"] * 3 * width
    # after messages: projections of eight components, and the layers of two blocks and a residual
    products += _MOVING * atoms * layers * (8 * 2 + 8) * square
    # before: a residual and seven blocks, the random features of queries and keys, attention
    later = layers - 1
    products += (_STILL + _MOVING * later) * atoms * (2 + 7 * 3) * square
    products += (_STILL_WITH_CONSTANT + _MOVING_WITH_CONSTANT * later) * atoms * 2 * square
    products += (_STILL + _BOTH_MOVING * later) * pairs * 2 * width
    # energies and charges are read out together; only charges have an incoming gradient that is not constant
    charged = knobs["electrostatics"] or knobs["dispersion"]
    products += (_MOVING if charged else _LAST) * atoms * 2 * width
    return int(products + _CONSTANT * atoms * 20 * width)
