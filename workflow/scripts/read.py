"""One chunk of a source's rows, as sorted runs; and where every rejected row went."""

from pathlib import Path

from chemscale.io import read_json
from chemscale.stage import logged

with logged(snakemake.log[0]):
    section, wildcards = snakemake.params.section, snakemake.wildcards
    # either imports what the other can do without
    if section["kind"] == "molecules":
        from chemscale.data.molecules import prepare
    else:
        from chemscale.data.ingest import prepare
    prepare(
        section,
        Path(snakemake.input.source).parent,
        read_json(Path(snakemake.input.source)),
        snakemake.params.code,
        (int(wildcards.chunk), int(wildcards.chunks)),
        snakemake.threads,
        Path(snakemake.output[0]),
    )
