"""Gap and dipole moment of molecules of the test split, for probes."""

from pathlib import Path

from chemscale.data.prepare_properties import prepare
from chemscale.stage import stage

with stage(snakemake) as settings:
    folder = Path(snakemake.output.manifest).parents[2]
    prepare(folder, settings["probe"], settings["code"], snakemake.threads)
