"""The arrays that training maps into memory."""

from pathlib import Path

from chemscale.data.prepare_arrays import prepare
from chemscale.stage import stage

with stage(snakemake):
    prepare(Path(snakemake.input[0]).parent)
