# The study, loaded once and checked before any job; every rule looks things up here.

import sys

from chemscale.errors import ConfigError
from chemscale.planning.code import family_digest, stage_digest
from chemscale.planning.packs import packs as pack_cells
from chemscale.study import load_study


def the_study():
    """The one study that the command line names; without a name the default one. Nothing is merged."""
    if workflow.config_settings.config:
        raise ConfigError("--config", "single settings", "write them into a file and name it by --configfile")
    files = workflow.overwrite_configfiles or ["config.yaml"]
    if len(files) > 1:
        raise ConfigError("--configfile", f"{len(files)} files", "name one study; studies are not merged")
    return load_study(files[0])


def refuse(error):
    """End with the error's one message: raised, Snakemake would wrap it in its own words and exit code."""
    print(f"chemscale: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


try:
    STUDY = the_study()
except ConfigError as error:
    refuse(error)

ROOT = str(STUDY.root)
DATA = str(STUDY.data_dir)
CELLS = {cell.path: cell for cell in [*STUDY.cells, *STUDY.controls]}
WAIVED = set(STUDY.waived)
KEPT = [path for path in CELLS if path not in WAIVED]
PACKS = pack_cells(CELLS[path] for path in KEPT)
CODE = {family: family_digest(family) for family in {cell.family for cell in CELLS.values()}}
# data folders by key: two sections with equal settings share one
SECTIONS = {STUDY.data_key(name): STUDY.data_section(name) for name in STUDY.config.data}
# the number of processes changes no output, so it is a rule's threads and no parameter that an edit would change
WORKERS = {key: section.pop("workers") for key, section in SECTIONS.items()}
LONGEST = {}
for cell in CELLS.values():
    draw = (cell.data["key"], cell.seed)
    LONGEST[draw] = max(LONGEST.get(draw, 0), cell.num_samples)
PREPARED = [f"{DATA}/{key}/manifest.json" for key in SECTIONS]
PREPARED += [f"{DATA}/{key}/subsets/seed{seed}.parquet" for key, seed in LONGEST]


wildcard_constraints:
    cell=r"(cells|controls/[^/]+)/[^/]+/[^/]+/n\d+/seed\d+",
    key=r"[^/]+",
    name=r"[^/]+",
    pack=r"[^/]+",
    seed=r"\d+",


def the_cell(wildcards):
    """The cell that a path names."""
    if wildcards.cell not in CELLS:
        refuse(ConfigError(f"{ROOT}/{wildcards.cell}", "no such cell", f"name a cell of the grid in {STUDY.path}"))
    return CELLS[wildcards.cell]


def cell_data(cells):
    """The prepared data that cells read: manifests of training and evaluation sets, and the subset orders.

    The orders are `ancient`: one made longer for a larger subset begins with the same rows, and leaves the cells be.
    """
    keys = {key for cell in cells for key in [cell.data["key"], *cell.data["evaluations"].values()]}
    draws = {(cell.data["key"], cell.seed) for cell in cells}
    manifests = [f"{DATA}/{key}/manifest.json" for key in sorted(keys)]
    return manifests + [ancient(f"{DATA}/{key}/subsets/seed{seed}.parquet") for key, seed in sorted(draws)]


def of_kind(*kinds):
    """The pattern of the data folders of these kinds, as a wildcard constraint."""
    return "|".join(key for key, section in SECTIONS.items() if section["kind"] in kinds) or "(?!)"
