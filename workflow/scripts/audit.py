"""The audit of everything, the seal included."""

from pathlib import Path

from chemscale.audit.run import write_final
from chemscale.reporting.figures import draw
from chemscale.reporting.page import render
from chemscale.stage import stage

with stage(snakemake):
    write_final(Path(snakemake.params.root), render, draw)
