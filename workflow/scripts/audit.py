"""The audit of everything, the seal included."""

from pathlib import Path

from chemscale.audit.run import write_final
from chemscale.reporting.figures import draw
from chemscale.reporting.page import render
from chemscale.stage import logged

with logged(snakemake.log[0]):
    write_final(Path(snakemake.params.root), render, draw)
