"""The evaluation of one finished cell."""

from pathlib import Path

from chemscale.evaluation.run import evaluate
from chemscale.stage import logged

with logged(snakemake.log[0]):
    params = snakemake.params
    evaluate(Path(snakemake.output[0]).parent, Path(params.data), params.settings, params.fits, params.code)
