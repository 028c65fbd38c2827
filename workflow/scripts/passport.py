"""What a study keeps of a data set, for its report and its audit."""

from pathlib import Path

from chemscale.data.passport import prepare
from chemscale.stage import stage

with stage(snakemake) as settings:
    root = Path(snakemake.output.manifest).parents[2]
    draws = [tuple(draw) for draw in settings["draws"]]
    folder = Path(snakemake.input[0]).parent
    prepare(root, folder, snakemake.wildcards.name, draws, scaffolds=settings["scaffolds"])
