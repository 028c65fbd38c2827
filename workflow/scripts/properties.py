"""Gap and dipole moment of molecules of the test split, for probes."""

from pathlib import Path

from chemscale.data.prepare_properties import prepare
from chemscale.stage import logged

with logged(snakemake.log[0]):
    folder = Path(snakemake.output.manifest).parents[2]
    prepare(folder, snakemake.params.settings, snakemake.params.code, snakemake.threads)
