"""The digests of all files of the study."""

from pathlib import Path

from chemscale.audit.run import seal
from chemscale.stage import stage

with stage(snakemake):
    seal(Path(snakemake.params.root))
