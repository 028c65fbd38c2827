"""Descriptors of the molecules that generated ones are compared with."""

from pathlib import Path

from chemscale.evaluation.reference import prepare
from chemscale.stage import stage

with stage(snakemake):
    folder = Path(snakemake.input[0]).parent
    prepare(folder, int(snakemake.wildcards.num), int(snakemake.wildcards.seed))
