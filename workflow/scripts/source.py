"""Where a source lies, checked; downloaded first where it is to be had from elsewhere."""

from pathlib import Path

from chemscale.data.sources import locate
from chemscale.io import write_json
from chemscale.stage import logged

with logged(snakemake.log[0]):
    params = snakemake.params
    write_json(Path(snakemake.output[0]), locate(params.section, Path(params.cache), params.downloads))
