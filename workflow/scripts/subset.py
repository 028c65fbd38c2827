"""The order in which a seed draws its subsets."""

from pathlib import Path

from chemscale.data.subsets import prepare
from stage import logged

with logged(snakemake.log[0]):
    folder = Path(snakemake.input[0]).parent
    prepare(folder, folder.name, int(snakemake.wildcards.seed), snakemake.params.num_samples)
