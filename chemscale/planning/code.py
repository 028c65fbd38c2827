"""Which source files decide the output of which stage: the digests that make an edit rerun what it touches.

Snakemake sees files, not imports. Each rule carries the digest of the modules that its output depends on, and a cell
the digest of its own family's, so that an edit of one model reruns that model's cells and nothing else before them.
"""

from __future__ import annotations

from chemscale.families import FAMILIES, LANGUAGE
from chemscale.provenance import code_digest

_RUNS = ("data/pool", "data/runs", "data/subsets")
_SOURCES = (
    "catalogue",
    "data/archives",
    "data/cache",
    "data/delimited",
    "data/downloads",
    "data/file_kinds",
    "data/molecule_files",
    "data/parquet_column",
    "data/sources",
)
_MOLECULES = (
    "data/constitution",
    "data/molecules",
    "data/selfies_encoder",
    "data/tokenizer",
    *_RUNS,
    *_SOURCES,
)
_SHARDS = ("data/manifest", "data/shards", "data/subsets")
_FRAMES = ("data/frames", "data/xtb", "units", *_RUNS)
_PROPERTIES = (
    "data/constitution",
    "data/prepare_properties",
    "data/properties",
    "data/sampling",
    "data/xtb",
    *_SHARDS,
)
# validation and training molecules that generated ones are compared with
_REFERENCE = (
    "data/constitution",
    "data/pool",
    "data/prepare_scaffolds",
    "data/sampling",
    "evaluation/descriptors",
    "evaluation/reference",
    *_SHARDS,
)
_PASSPORT = ("data/passport", "data/relatives", "data/scaffolds", "data/tokenizer", *_SHARDS)
# what reads a source, for each kind of data section: the first stage of its data
MAKERS: dict[str, tuple[str, ...]] = {
    "molecules": _MOLECULES,
    "conformers": (
        "data/blocks",
        "data/conformers",
        "data/electronic_states",
        "data/simulation",
        "data/starts",
        "data/trajectories",
        *_FRAMES,
        *_SOURCES,
    ),
    "structures": (
        "data/ase_databases",
        "data/blocks",
        "data/electronic_states",
        "data/extended_xyz",
        "data/ingest",
        "data/own_frames",
        "data/published_frames",
        "data/structures",
        "data/unit_check",
        *_FRAMES,
        *_SOURCES,
    ),
}
MAKERS["trajectories"] = MAKERS["conformers"]
STAGES: dict[str, tuple[str, ...]] = {
    "source": _SOURCES,
    **MAKERS,
    "assemble": ("data/assemble", "data/elements", "data/tokenizer", *_RUNS, *_SHARDS),
    "arrays": ("data/arrays", "data/neighbours", "data/prepare_arrays", *_SHARDS),
    "subset": ("data/prepare_subsets", *_SHARDS),
    "scaffolds": ("data/constitution", "data/pool", "data/prepare_scaffolds", *_SHARDS),
    "passport": _PASSPORT,
    "properties": (*_PROPERTIES, "data/pool", "units"),
    "reference": _REFERENCE,
    "evaluate": (
        "cost/parameters",
        "cost/tensors",
        "data/arrays",
        "data/runs",
        "evaluation",
        "evaluations",
        "inference/embed",
        "inference/generate",
        "inference/hugging_face",
        "inference/finished",
        "inference/language",
        "inference/outputs",
        "inference/potential",
        "inference/predictor",
        "data/neighbours",
        "models/chemgpt",
        "models/chemgpt_modern",
        "models/compiled",
        "models/decoder",
        "models/graph",
        "models/operations",
        "models/potential",
        "models/registry",
        "models/weights",
        "records",
        "units",
        *_MOLECULES,
        *_PROPERTIES,
        *_REFERENCE,
    ),
    "plan": ("cost", "planning/packs", "planning/plan", "units"),
    "gather": ("evaluations", "gathering", "records"),
    "fits": ("scaling",),
    "tables": ("reporting/tables", *_PASSPORT),
    "figures": (
        "evaluations",
        "records",
        "reporting/axes",
        "reporting/evaluations",
        "reporting/figures",
        "reporting/results",
        "units",
    ),
    "report": ("evaluations", "records", "reporting", "units", *_PASSPORT),
    "audit": (
        "audit",
        "catalogue",
        "cost",
        "data/constitution",
        "data/pool",
        "data/prepare_scaffolds",
        "evaluation/descriptors",
        "evaluation/measures",
        "evaluation/resampling",
        "evaluation/stability",
        "evaluations",
        "gathering",
        *_PASSPORT,
        "planning/packs",
        "planning/plan",
        "records",
        "scaling",
        "training/sampler",
        "training/schedule",
        "units",
    ),
}
_TRAINING = (
    "cost/flops",
    "cost/parameters",
    "cost/passes",
    "cost/tensors",
    "grid",
    "models/registry",
    "models/weights",
    "records",
    "training/checkpoint",
    "training/engine",
    "training/job",
    "training/meters",
    "training/metrics",
    "training/ranks",
    "training/run",
    "training/sampler",
    "training/schedule",
    "training/shared",
    "training/zero",
    "data/arrays",
    "data/identity",
    "data/manifest",
    "data/subsets",
)
_DOMAINS = {
    "language": ("data/tokenizer", "training/lm"),
    "potentials": (
        "data/neighbours",
        "models/compiled",
        "models/graph",
        "models/potential",
        "models/radial",
        "training/frames",
        "training/potential",
        "training/step",
        "units",
    ),
}


def stage_digest(stage: str) -> str:
    """The digest of the source that decides a stage's output."""
    return code_digest(*STAGES[stage])


def family_modules(family: str) -> tuple[str, ...]:
    """The modules that decide the bits of a family's cells."""
    domain = "language" if FAMILIES[family].domain == LANGUAGE else "potentials"
    return (*_TRAINING, *_DOMAINS[domain], FAMILIES[family].module, *FAMILIES[family].parts)


def family_digest(family: str) -> str:
    """The digest of the source that decides the bits of a family's cells."""
    return code_digest(*family_modules(family))
