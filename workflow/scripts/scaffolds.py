"""The scaffolds of a data set's molecules, where a study asks for them."""

from pathlib import Path

from chemscale.data.prepare_scaffolds import prepare
from chemscale.stage import stage

with stage(snakemake) as settings:
    prepare(Path(snakemake.input[0]).parent, settings["code"], snakemake.threads)
