# The study, loaded once and checked before any job; every rule looks things up here.

import json
import os
import shlex
import sys
from functools import cache

from chemscale.errors import ConfigError
from chemscale.planning.due import judge, untrained
from chemscale.planning.jobs import jobs_of
from chemscale.planning.packs import packs as pack_cells
from chemscale.planning.plan import memory_mb
from chemscale.planning.retrain import confirm, retraining, set_aside
from chemscale.study import load_study

# Snakemake (9.27) writes this path into shell commands as it is: a blank or a quote in it would end every job
sys.executable = shlex.quote(sys.executable)


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
JOBS = jobs_of(STUDY)
PACKS = pack_cells(CELLS[path] for path in CELLS if path not in STUDY.waived)
EVALUATED = [job.wildcards["cell"] for job in JOBS if job.rule == "evaluate"]
# data folders by key: two sections with equal settings share one; how the work is spread changes no output
SECTIONS = {STUDY.data_key(name): STUDY.data_section(name) for name in STUDY.config.data}


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


def the_job(rule, wildcards):
    """The study's job of a rule, see `chemscale/planning/jobs.py`."""
    if "cell" in wildcards.keys():
        the_cell(wildcards)
    try:
        return JOBS.of(rule, dict(wildcards.items()))
    except KeyError:
        words = " ".join([rule, *wildcards])
        refuse(ConfigError(words, "no such job in this study", f"name a file that {STUDY.path} asks for"))


def pack_marker(pack):
    """The file that says that a pack's cells were trained."""
    return f"{ROOT}/logs/packs/{pack}.json"


MARKERS = {pack_marker(pack): cells for pack, cells in PACKS.items()}


def job_of(rule):
    """What a rule's script is handed: its settings, and what its record is made of."""
    return lambda wildcards: JOBS.params(the_job(rule, wildcards))


def of_kind(*kinds):
    """The pattern of the data folders of these kinds, as a wildcard constraint."""
    return "|".join(key for key, section in SECTIONS.items() if section["kind"] in kinds) or "(?!)"


def names_of(*kinds):
    """The pattern of the config's names of data sets of these kinds, as a wildcard constraint."""
    return "|".join(name for name, section in STUDY.config.data.items() if section.kind in kinds) or "(?!)"
