"""The audit of records, tables and fits, before the page is written."""

from pathlib import Path

from chemscale.audit.run import write_records
from chemscale.stage import stage

with stage(snakemake):
    write_records(Path(snakemake.params.root))
