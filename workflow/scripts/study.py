"""The resolved study: grid, controls, waived cells and data keys."""

from pathlib import Path

from chemscale.study import write_resolved

write_resolved(Path(snakemake.params.root), snakemake.params.study)
