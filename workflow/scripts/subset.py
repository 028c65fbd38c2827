"""The rows of a seed's subset."""

from pathlib import Path

from chemscale.data.prepare_subsets import prepare
from chemscale.stage import stage

with stage(snakemake):
    folder = Path(snakemake.input[0]).parent
    prepare(folder, folder.name, int(snakemake.wildcards.seed), int(snakemake.wildcards.num_samples))
