"""One set of all runs: vocabulary, shards and manifest."""

from pathlib import Path

from chemscale.data.assemble import prepare
from chemscale.stage import logged

with logged(snakemake.log[0]):
    folder = Path(snakemake.output[0]).parent
    params = snakemake.params
    prepare(params.section, folder, [Path(marker) for marker in snakemake.input], params.code, snakemake.threads)
