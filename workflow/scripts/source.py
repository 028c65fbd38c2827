"""Where a source lies, checked; downloaded first where it is to be had from elsewhere."""

from pathlib import Path

from chemscale.data.sources import locate
from chemscale.io import write_json
from chemscale.stage import stage

with stage(snakemake) as settings:
    params = snakemake.params
    section = settings["section"] | {"path": params.path}
    write_json(Path(snakemake.output[0]), locate(section, Path(params.cache), params.downloads))
