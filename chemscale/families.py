"""The families of models as data: domain, typed size knobs and module of each.

Adding a model is a row here, a file in `chemscale/models/`, its counts in `chemscale/cost/` and an entry in a config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knob:
    """A number that a size fixes: its type and the range that makes sense."""

    kind: type[int] | type[float]
    minimum: float
    maximum: float
    meaning: str


@dataclass(frozen=True)
class Choice:
    """One of some values that a size may name; the first is taken where it names none."""

    values: tuple[str | bool | int, ...]
    meaning: str


@dataclass(frozen=True)
class Family:
    """A kind of model: `module` builds it, from `parts`, other files of models that it is made of.

    The frames that train it are turned at random where it is `turned`: no symmetry under rotations is built into it.
    `architecture` is the family whose model it is, with a knob held: symmetry is an axis of its own, and laws along the
    capacity need a family for each step of it.
    An `electronic` one takes a structure's charge and spin.
    `capacity` names the knob along which a learning-rate rule scales. The width of a head is a multiple of `head_step`.
    """

    name: str
    domain: str
    module: str
    knobs: Mapping[str, Knob | Choice]
    parts: tuple[str, ...] = ()
    capacity: str = "width"
    head_step: int = 1
    turned: bool = False
    architecture: str = ""
    electronic: bool = False


LANGUAGE, POTENTIALS = "language", "potentials"
# of the test loss of a domain's cells
LOSS_UNITS = {LANGUAGE: "nats per token", POTENTIALS: "meV/angstrom per force component"}

_DECODER_KNOBS = {
    "layers": Knob(int, 1, 512, "transformer blocks"),
    "width": Knob(int, 2, 65536, "features per token"),
    "heads": Knob(int, 1, 512, "attention heads; divides the width"),
}
# modules that a decoder's own one uses: part of what decides its bits
_DECODER_MODULES = ("models/decoder", "models/operations")
# how a potential's messages fall to zero at the cutoff, see `models/radial.py`
ENVELOPES = ("smooth", "cosine")
_GRAPH_KNOBS: dict[str, Knob | Choice] = {
    "width": Knob(int, 2, 4096, "features per atom"),
    "interactions": Knob(int, 1, 24, "message-passing layers"),
    "num_radial": Knob(int, 2, 256, "radial basis functions"),
    "cutoff": Knob(float, 1.0, 20.0, "neighbour cutoff in angstrom"),
    "envelope": Choice(ENVELOPES, "how messages fall to zero at the cutoff"),
}
_SPOOKYNET_KNOBS: dict[str, Knob | Choice] = {
    # how its messages fall to zero belongs to it
    **{name: knob for name, knob in _GRAPH_KNOBS.items() if name != "envelope"},
    "long_cutoff": Knob(float, 1.0, 100.0, "cutoff of electrostatics and dispersion in angstrom"),
    "repulsion": Choice((True, False), "repulsion of the nuclei"),
    "electrostatics": Choice((True, False), "electrostatics of partial charges"),
    "dispersion": Choice((True, False), "D4 dispersion"),
}
_PAINN_KNOBS = _GRAPH_KNOBS | {"vectors": Choice((True, False), "vector features beside the scalars")}
_ALLEGRO_KNOBS = _GRAPH_KNOBS | {
    "width": Knob(int, 2, 4096, "scalar features per edge"),
    "tensors": Knob(int, 1, 1024, "tensor features per edge"),
    "l_max": Knob(int, 0, 2, "largest degree of a tensor: 0 is invariant"),
    "interactions": Knob(int, 1, 8, "tensor products with the environment"),
    "neighbours": Knob(
        float, 1.0, 1000.0, "of an atom within the cutoff, about: sums over them are divided by its root"
    ),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("chemgpt", LANGUAGE, "models/chemgpt", _DECODER_KNOBS, _DECODER_MODULES),
        # another block style: rotary positions, which turn pairs of a head's features
        Family("chemgpt_modern", LANGUAGE, "models/chemgpt_modern", _DECODER_KNOBS, _DECODER_MODULES, head_step=2),
        Family("schnet", POTENTIALS, "models/schnet", _GRAPH_KNOBS, ("models/convolution",)),
        Family("baseline", POTENTIALS, "models/baseline", _GRAPH_KNOBS, ("models/convolution",), turned=True),
        Family("painn", POTENTIALS, "models/painn", _PAINN_KNOBS),
        Family(
            "painn_scalar",
            POTENTIALS,
            "models/painn",
            _PAINN_KNOBS | {"vectors": Choice((False,), "no vector features: an invariant model of the same build")},
            architecture="painn",
        ),
        Family("allegro", POTENTIALS, "models/allegro", _ALLEGRO_KNOBS),
        *(
            Family(
                f"allegro_l{degree}",
                POTENTIALS,
                "models/allegro",
                _ALLEGRO_KNOBS | {"l_max": Choice((degree,), "largest degree of a tensor: 0 is invariant")},
                architecture="allegro",
            )
            for degree in range(3)
        ),
        Family(
            "spookynet",
            POTENTIALS,
            "models/spookynet",
            _SPOOKYNET_KNOBS,
            ("models/d4_tables.safetensors", "models/dispersion"),
            electronic=True,
        ),
    )
}


def architecture(family: str) -> str:
    """The family whose model a family is: itself, or the one of which it holds a knob."""
    return FAMILIES[family].architecture or family


def knobs_fault(family: str, knobs: Any) -> str | None:
    """What is wrong with the knobs of a size as a file states them, in words; None where they are good."""
    known = FAMILIES[family].knobs
    if not isinstance(knobs, dict) or set(knobs) != set(known):
        return f"{sorted(map(str, knobs)) if isinstance(knobs, dict) else knobs!r} in place of {', '.join(known)}"
    for name, knob in known.items():
        value = knobs[name]
        if isinstance(knob, Choice):
            if not any(type(value) is type(allowed) and value == allowed for allowed in knob.values):
                return f"{name} {value!r} in place of one of {', '.join(map(repr, knob.values))}"
        elif type(value) not in (int, knob.kind) or not knob.minimum <= value <= knob.maximum:
            kind = "a whole number" if knob.kind is int else "a number"
            return f"{name} {value!r} in place of {kind} from {knob.minimum:g} to {knob.maximum:g}"
    if knobs["width"] % (knobs.get("heads", 1) * FAMILIES[family].head_step):
        return f"{knobs['heads']} heads that do not divide the width {knobs['width']}"
    return None


def reach(family: str, knobs: Mapping[str, Any]) -> float:
    """How far the neighbour list of a potential has to reach, in angstrom."""
    far = family == "spookynet" and (knobs["electrostatics"] or knobs["dispersion"])
    return float(max(knobs["cutoff"], knobs["long_cutoff"]) if far else knobs["cutoff"])
