"""One set of all runs: vocabulary, shards and manifest."""

from pathlib import Path

from chemscale.data.assemble import prepare
from chemscale.stage import stage

with stage(snakemake) as settings:
    folder = Path(snakemake.output[0]).parent
    code = settings["code of rows"] + settings["code"]
    prepare(settings["section"], folder, [Path(marker) for marker in snakemake.input], code, snakemake.threads)
