"""Frames with energies and forces, splits and manifest."""

from pathlib import Path

from chemscale.data.trajectories import prepare
from stage import logged

with logged(snakemake.log[0]):
    section = {**snakemake.params.section, "workers": snakemake.threads}
    prepare(section, Path(snakemake.output.manifest).parent, snakemake.threads)
