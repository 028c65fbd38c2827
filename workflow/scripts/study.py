"""The resolved study: grid, controls, waived cells and data keys."""

from pathlib import Path

from chemscale.io import write_json

write_json(Path(snakemake.output[0]), snakemake.params.study)
