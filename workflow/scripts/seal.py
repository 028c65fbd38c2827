"""The digests of all files of the study."""

from pathlib import Path

from chemscale.audit.run import seal
from chemscale.stage import logged

with logged(snakemake.log[0]):
    seal(Path(snakemake.params.root))
