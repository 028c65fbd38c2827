"""How many parameters a size has; equal to the built model's, by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chemscale.cost.tensors import product_sizes
from chemscale.families import architecture

POSITIONS = 2048
# rows of a table of elements: by atomic number, 0 unused
SPECIES = 119
# of one that ends with radon, the last element that D4 has references of
SPECIES_TO_RADON = 87


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `non_embedding` leaves out the tables of tokens, positions and species."""

    total: int
    non_embedding: int


# of a decoder, in widths: the vectors of a block, those of the last norm, and the rows of a table of positions
_VECTORS = {"chemgpt": (10, 2, POSITIONS), "chemgpt_modern": (2, 1, 0)}


def decoder_matrices(family: str, width: int) -> int:
    """The weights in the matrices of one block of a language model."""
    if family == "chemgpt":
        return 12 * width**2
    assert family == "chemgpt_modern", family
    return 4 * width**2 + 3 * width * gated_width(width)


def gated_width(width: int) -> int:
    """The inner width of the SwiGLU of a block: 8/3 of its width, rounded."""
    return max(1, round(8 * width / 3))


def count(family: str, knobs: Mapping[str, Any], vocab_size: int | None) -> Parameters:
    """The parameters of a size.

    ChemGPT's N is layers (12 w^2 + 10 w) + 2 w, as the published names count it.
    """
    width, family = knobs["width"], architecture(family)
    if family in _VECTORS:
        assert vocab_size is not None
        per_block, last, positions = _VECTORS[family]
        core = knobs["layers"] * (decoder_matrices(family, width) + per_block * width) + last * width
        return Parameters(core + (vocab_size + positions) * width, core)
    if family == "allegro":
        sizes = product_sizes(knobs["l_max"], knobs["interactions"])
        core = allegro_matrices(knobs) + knobs["tensors"] * sum(size.paths for size in sizes)
        return Parameters(core + SPECIES * width, core)
    if family == "spookynet":
        core = spookynet_core(knobs)
        return Parameters(core + SPECIES_TO_RADON * (width + 2), core)
    readout = max(1, width // 2)
    head = (width + 1) * readout + readout + 1
    if family in ("schnet", "baseline"):
        seen = knobs["num_radial"] * (1 if family == "schnet" else 4)
        filters = (seen + 1) * knobs["interactions"] * width
        layers = knobs["interactions"] * (4 * width**2 + 3 * width)
    elif not knobs["vectors"]:
        filters = (knobs["num_radial"] + 1) * knobs["interactions"] * width
        layers = knobs["interactions"] * (4 * width**2 + 4 * width)
    else:
        assert family == "painn", family
        filters = (knobs["num_radial"] + 1) * knobs["interactions"] * 3 * width
        layers = knobs["interactions"] * (11 * width**2 + 8 * width)
    core = filters + layers + head
    return Parameters(core + SPECIES * width, core)


def allegro_matrices(knobs: Mapping[str, Any]) -> int:
    """The weights in the matrices that each edge of an Allegro passes, all layers together."""
    width, tensors, layers = knobs["width"], knobs["tensors"], knobs["interactions"]
    weights = tensors * (knobs["l_max"] + 1)
    count = knobs["num_radial"] * width + 2 * width**2 + width * weights + width * (width + weights)
    for layer in range(layers):
        last = layer == layers - 1
        count += ((layer + 1) * width + tensors) * width + width * (width + (0 if last else weights))
    readout = max(1, width // 2)
    return int(count + (layers + 1) * width * readout + readout)


def spookynet_core(knobs: Mapping[str, Any]) -> int:
    """The parameters of a SpookyNet but for its tables of elements."""
    width = knobs["width"]
    residual = 2 * width**2 + 6 * width
    block = residual + width**2 + 3 * width
    layer = 9 * block + 2 * residual + 3 * knobs["num_radial"] * width + 4 * width**2
    # of charge and spin: a query, a block without biases; three kinds of electrons to share out, each a key and a value
    electrons = 2 * (4 * width**2 + 7 * width) + 6 * width
    # electron configurations have 20 numbers; energy and charge are read out
    rest = 20 * width + 2 * width + 1
    return int(knobs["interactions"] * layer + electrons + rest + 10 * knobs["repulsion"] + 4 * knobs["dispersion"])
