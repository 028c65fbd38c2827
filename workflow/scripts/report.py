"""The report, one self-contained page."""

from pathlib import Path

from chemscale.reporting.page import write_page
from chemscale.stage import logged

with logged(snakemake.log[0]):
    write_page(Path(snakemake.params.root))
