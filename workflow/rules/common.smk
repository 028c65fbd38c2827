# The study, loaded once and checked before any job; every rule looks things up here.

import json
import sys

from chemscale.errors import ConfigError
from chemscale.families import POTENTIALS, reach
from chemscale.io import digest
from chemscale.planning.code import family_digest, stage_digest
from chemscale.planning.packs import packs as pack_cells
from chemscale.planning.plan import memory_mb
from chemscale.study import data_settings, load_study, wants_scaffolds


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


def cell_data(cells):
    """The prepared data that cells read: arrays of training and evaluation sets, neighbour lists, and subsets."""
    files = set()
    for cell in cells:
        for key in [cell.data["key"], *cell.data["evaluations"].values()]:
            files |= {f"{DATA}/{key}/manifest.json", f"{DATA}/{key}/arrays/arrays.json"}
            if cell.domain == POTENTIALS:
                files.add(f"{DATA}/{key}/neighbours/{reach(cell.family, cell.knobs):g}/arrays.json")
        files.add(f"{DATA}/{cell.data['key']}/subsets/seed{cell.seed}/n{cell.num_samples}.parquet")
    return sorted(files)


def evaluation_data(path):
    """The prepared data that a cell's evaluation reads beside its training data: properties, reference molecules."""
    folder, asked = f"{DATA}/{CELLS[path].data['key']}", EVALUATED[path]
    files = []
    if asked["probe"]:
        files.append(f"{folder}/properties/{digest(asked['probe'])[:12]}/manifest.json")
    if asked["generation"]:
        files.append(f"{folder}/reference/seed{asked['generation']['seed']}/n{asked['generation']['num']}.parquet")
    if asked["dynamics"]:
        files.append(f"{DATA}/{asked['dynamics']['key']}/manifest.json")
    return files


def own_files(section):
    """The user's files that a data section is made of, and no published ones: those are known by their content."""
    files = [section["path"]] if section.get("source") == "file" else []
    files += [section["vocabulary"]] if section.get("vocabulary") else []
    if section["kind"] in ("conformers", "trajectories") and section["molecules"]:
        files += [molecule["structure"] for molecule in section["molecules"].values() if molecule["structure"]]
    return files


def scaffolds_of(name):
    """The scaffolds of a data set of the config, where the study asks for them."""
    return [f"{STUDY.data_folder(name)}/scaffolds/scaffolds.json"] if wants_scaffolds(STUDY.data_section(name)) else []


ROOT = str(STUDY.root)
DATA = str(STUDY.data_dir)
CELLS = {cell.path: cell for cell in [*STUDY.cells, *STUDY.controls]}
WAIVED = set(STUDY.waived)
KEPT = [path for path in CELLS if path not in WAIVED]
PACKS = pack_cells(CELLS[path] for path in KEPT)
CODE = {family: family_digest(family) for family in {cell.family for cell in CELLS.values()}}
# data folders by key: two sections with equal settings share one
FULL = {STUDY.data_key(name): STUDY.data_section(name) for name in STUDY.config.data}
SECTIONS = {key: data_settings(section) for key, section in FULL.items()}
# how the work is spread and where a file lies change no output: a rule's threads and inputs, and none of its params
WORKERS = {key: section["workers"] for key, section in FULL.items()}
CHUNKS = {key: section["chunks"] for key, section in FULL.items()}
PATHS = {key: section.get("path") for key, section in FULL.items()}
OWN_FILES = {key: own_files(section) for key, section in FULL.items()}
MAKER_CODE = {key: stage_digest(section["kind"]) for key, section in FULL.items()}
# the subsets that the study draws from each data set
DRAWS = {}
for cell in CELLS.values():
    draws = DRAWS.setdefault(cell.data["name"], [])
    if [cell.seed, cell.num_samples] not in draws:
        draws.append([cell.seed, cell.num_samples])
PASSPORTS = [
    f"{ROOT}/data/{name}/{file}"
    for name, section in STUDY.config.data.items()
    for file in ["manifest.json", "rows.parquet", "passport.json"]
    + (["tokenizer.json", "tokenizer"] if section.kind == "molecules" else [])
]
# cells that are evaluated beyond their loss, with what is asked of each
EVALUATED = {path: asked for path, asked in STUDY.evaluated.items() if path not in WAIVED}
# the settings of all probes, by the name that their folder of properties has
PROBES = {digest(asked["probe"])[:12]: asked["probe"] for asked in EVALUATED.values() if asked["probe"]}
PREPARED = sorted(
    {file for cell in CELLS.values() for file in cell_data([cell])}
    | {file for path in EVALUATED for file in evaluation_data(path)}
)


wildcard_constraints:
    cell=r"(cells|controls/[^/]+)/[^/]+/[^/]+/n\d+/seed\d+",
    key=r"[^/]+",
    name=r"[^/]+",
    pack=r"[^/]+",
    seed=r"\d+",
    num_samples=r"\d+",
    chunk=r"\d+",
    chunks=r"\d+",
    cutoff=r"[\d.]+",
    num=r"\d+",
    probe=r"[0-9a-f]{12}",


def the_cell(wildcards):
    """The cell that a path names."""
    if wildcards.cell not in CELLS:
        refuse(ConfigError(f"{ROOT}/{wildcards.cell}", "no such cell", f"name a cell of the grid in {STUDY.path}"))
    return CELLS[wildcards.cell]


def of_kind(*kinds):
    """The pattern of the data folders of these kinds, as a wildcard constraint."""
    return "|".join(key for key, section in SECTIONS.items() if section["kind"] in kinds) or "(?!)"


def names_of(*kinds):
    """The pattern of the config's names of data sets of these kinds, as a wildcard constraint."""
    return "|".join(name for name, section in STUDY.config.data.items() if section.kind in kinds) or "(?!)"
