"""The report, one self-contained page."""

from pathlib import Path

from chemscale.reporting.page import write_page
from chemscale.stage import stage

with stage(snakemake):
    write_page(Path(snakemake.params.root))
