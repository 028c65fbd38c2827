"""The evaluation of one finished cell."""

from pathlib import Path

from chemscale.evaluation.run import evaluate
from chemscale.stage import stage

with stage(snakemake) as settings:
    params = snakemake.params
    folder = Path(snakemake.output.record).parent
    evaluate(folder, params.domain, Path(params.data_dir), settings["settings"], settings["fits"], settings["code"])
