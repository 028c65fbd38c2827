"""What a study keeps of a data set, for its report and its audit."""

from pathlib import Path

from chemscale.data.passport import prepare
from chemscale.stage import logged

with logged(snakemake.log[0]):
    root = Path(snakemake.output.manifest).parents[2]
    draws = [tuple(draw) for draw in snakemake.params.draws]
    folder = Path(snakemake.input.manifest).parent
    prepare(root, folder, snakemake.wildcards.name, draws, scaffolds=bool(snakemake.input.scaffolds))
