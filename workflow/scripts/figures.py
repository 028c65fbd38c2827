"""All figures of the report."""

from pathlib import Path

from chemscale.reporting.figures import draw_all
from chemscale.stage import logged

with logged(snakemake.log[0]):
    draw_all(Path(snakemake.params.root))
