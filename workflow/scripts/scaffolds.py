"""The scaffolds of a data set's molecules, where a study asks for them."""

from pathlib import Path

from chemscale.data.prepare_scaffolds import prepare
from chemscale.stage import logged

with logged(snakemake.log[0]):
    prepare(Path(snakemake.input[0]).parent, snakemake.params.code, snakemake.threads)
