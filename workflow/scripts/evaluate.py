"""The evaluation of one finished cell."""

from pathlib import Path

from chemscale.evaluation.run import evaluate
from chemscale.stage import logged

with logged(snakemake.log[0]):
    params = snakemake.params
    folder = Path(snakemake.output.record).parent
    evaluate(folder, params.domain, Path(params.data_dir), params.settings, params.fits, params.code)
