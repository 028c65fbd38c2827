"""Canonical molecules, and where every rejected row went."""

from pathlib import Path

from chemscale.data.molecules import prepare
from stage import logged

with logged(snakemake.log[0]):
    section = {**snakemake.params.section, "workers": snakemake.threads}
    prepare(section, Path(snakemake.output.ledger).parent)
