"""One chunk of frames by GFN2-xTB, as sorted runs; and where every rejected frame went."""

from pathlib import Path

from chemscale.data.simulation import prepare
from chemscale.stage import logged

with logged(snakemake.log[0]):
    marker = Path(snakemake.output[0])
    prepare(
        snakemake.params.section,
        marker.parents[1],
        snakemake.params.code,
        (int(snakemake.wildcards.chunk), int(snakemake.wildcards.chunks)),
        snakemake.threads,
        marker,
    )
