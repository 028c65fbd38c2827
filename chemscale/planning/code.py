"""Which source files decide the output of which stage: the digests that make an edit rerun what it touches.

Snakemake sees files, not imports. Each rule carries the digest of the modules that its output depends on, and a cell
the digest of its own family's, so that an edit of one model reruns that model's cells and nothing else before them.
"""

from __future__ import annotations

from chemscale.families import FAMILIES, LANGUAGE
from chemscale.provenance import code_digest

_SHARDS = ("data/shards", "data/subsets")
STAGES: dict[str, tuple[str, ...]] = {
    "molecules": ("data/molecules", "data/pool", "data/sources", "data/tokenizer", *_SHARDS),
    "tokenize": ("data/tokenizer", *_SHARDS),
    "frames": (
        "data/conformers",
        "data/frames",
        "data/pool",
        "data/sources",
        "data/trajectories",
        "data/xtb",
        "units",
        *_SHARDS,
    ),
    "subset": _SHARDS,
    "passport": ("data/passport", *_SHARDS),
    "plan": ("cost", "planning/packs", "planning/plan", "units"),
    "gather": ("records",),
    "fits": ("scaling",),
    "tables": ("reporting/tables",),
    "figures": ("records", "reporting/axes", "reporting/figures", "reporting/results", "units"),
    "report": ("records", "reporting", "units"),
    "audit": ("audit", "cost", "planning/packs", "planning/plan", "records", "scaling", "units", *_SHARDS),
}
_TRAINING = (
    "cost/flops",
    "cost/parameters",
    "grid",
    "models/registry",
    "models/weights",
    "records",
    "training/checkpoint",
    "training/engine",
    "training/job",
    "training/metrics",
    "training/run",
    "training/sampler",
    "training/schedule",
    *_SHARDS,
)
_DOMAINS = {
    "language": ("data/tokenizer", "training/lm"),
    "potentials": ("data/neighbours", "models/potential", "models/radial", "training/potential", "units"),
}


def stage_digest(stage: str) -> str:
    """The digest of the source that decides a stage's output."""
    return code_digest(*STAGES[stage])


def family_modules(family: str) -> tuple[str, ...]:
    """The modules that decide the bits of a family's cells."""
    domain = "language" if FAMILIES[family].domain == LANGUAGE else "potentials"
    return (*_TRAINING, *_DOMAINS[domain], FAMILIES[family].module)


def family_digest(family: str) -> str:
    """The digest of the source that decides the bits of a family's cells."""
    return code_digest(*family_modules(family))
