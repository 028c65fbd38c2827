"""Vocabulary, token shards, splits and manifest."""

from pathlib import Path

from chemscale.data.tokenizer import prepare
from stage import logged

with logged(snakemake.log[0]):
    prepare(snakemake.params.section, Path(snakemake.output.manifest).parent)
