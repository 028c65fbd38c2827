"""One chunk of a source's rows, as sorted runs; and where every rejected row went."""

from pathlib import Path

from chemscale.io import read_json
from chemscale.stage import stage

with stage(snakemake) as settings:
    section, wildcards = settings["section"], snakemake.wildcards
    source = Path(snakemake.input[0])
    # either imports what the other can do without
    if section["kind"] == "molecules":
        from chemscale.data.molecules import prepare
    else:
        from chemscale.data.ingest import prepare
    prepare(
        section,
        source.parent,
        read_json(source),
        settings["code"],
        (int(wildcards.chunk), int(wildcards.chunks)),
        snakemake.threads,
        Path(snakemake.output[0]),
    )
