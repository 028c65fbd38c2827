"""One chunk of frames by GFN2-xTB, as sorted runs; and where every rejected frame went."""

from pathlib import Path

from chemscale.data.simulation import prepare
from chemscale.stage import stage

with stage(snakemake) as settings:
    marker = Path(snakemake.output[0])
    prepare(
        settings["section"],
        marker.parents[1],
        settings["code"],
        (int(snakemake.wildcards.chunk), int(snakemake.wildcards.chunks)),
        snakemake.threads,
        marker,
    )
