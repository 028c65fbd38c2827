"""The copy of a data set's manifest and splits that the audit reads."""

from pathlib import Path

from chemscale.data.passport import write_study_data
from stage import logged

with logged(snakemake.log[0]):
    root = Path(snakemake.output.manifest).parents[2]
    write_study_data(root, Path(snakemake.input[0]).parent, snakemake.wildcards.name)
