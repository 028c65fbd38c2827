"""The neighbour lists of all frames within a cutoff."""

from pathlib import Path

from chemscale.data.prepare_arrays import prepare_neighbours
from chemscale.stage import stage

with stage(snakemake):
    prepare_neighbours(Path(snakemake.input[0]).parents[1], float(snakemake.wildcards.cutoff))
