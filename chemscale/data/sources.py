"""Where molecules come from: a pinned public source, or a file of one's own."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chemscale.errors import DataError
from chemscale.io import sha256_file


@dataclass(frozen=True)
class Source:
    """A published file: version, rows, checksum, licence and citation."""

    name: str
    version: str
    file: str
    rows: int
    sha256: str
    licence: str
    citation: str


SOURCES: dict[str, Source] = {
    "chemicals": Source(
        name="chemicals",
        version="1.5.2",
        file="Identifiers/chemical identifiers pubchem large.tsv",
        rows=71_347,
        sha256="3b9aac5ae8d270bafc9e72a6af5441ce580f0ce444d1dee48dc37e47474b91fc",
        licence="MIT",
        citation="C. Bell et al., chemicals: Chemical properties component of ChEDL, github.com/CalebBell/chemicals",
    )
}
# Columns of the identifier table, which has no header
_CID, _SMILES = 0, 4


def chemicals() -> Iterator[tuple[int, str]]:
    """PubChem CID and SMILES of each compound of the `chemicals` package, in the file's order.

    Raises:
        DataError: the package is not installed, or its file is not the pinned one.
    """
    source = SOURCES["chemicals"]
    # the package's location without importing it: that loads a hundred modules
    spec = importlib.util.find_spec(source.name)
    path = Path(spec.origin).parent / source.file if spec and spec.origin else None
    if path is None or not path.exists():
        raise DataError(
            f"read the source {source.name}", "no such package or file", f"pip install {source.name}=={source.version}"
        )
    found = sha256_file(path)
    if found != source.sha256:
        raise DataError(
            f"read {path.name} of {source.name} {source.version}",
            f"sha256 {found}",
            f"{source.sha256} is pinned: pip install --force-reinstall {source.name}=={source.version}",
        )
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            fields = line.rstrip("\n").split("\t")
            yield int(fields[_CID]), fields[_SMILES]


def own_file(path: Path, column: str | None) -> Iterator[str | None]:
    """The SMILES of a user's file, in order: CSV, TSV or Parquet by `column`, SMI or TXT by the first word of a line.

    None stands for a row that cannot be read, such as one with a stray quote. Bytes that are no UTF-8 stay in their own
    row: as part of a SMILES they are no SMILES, elsewhere they do not matter.

    Raises:
        DataError: the file is missing or empty, lacks the column, or has a quote that is never closed.
    """
    if not path.is_file():
        raise DataError(f"read molecules from {path}", "no such file", "give the path from the folder of the run")
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".smi", ".txt", ".parquet"):
        raise DataError(f"read molecules from {path}", f"a file of kind {kind!r}", "csv, tsv, smi, txt or parquet")
    empty = True
    for smiles in _parquet_column(path, column) if kind == ".parquet" else _text(path, kind, column):
        empty = False
        yield smiles
    if empty:
        raise DataError(f"read molecules from {path}", "no rows", "give a file with at least one molecule")


def _text(path: Path, kind: str, column: str | None) -> Iterator[str | None]:
    # utf-8-sig: a byte order mark is no part of the first column's name
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        if kind not in (".csv", ".tsv"):
            for text in stream:
                yield text.split(maxsplit=1)[0] if text.strip() else ""
            return
        # strict: else a quote that is never closed swallows all lines after it as one row
        reader = csv.reader(stream, delimiter="," if kind == ".csv" else "\t", strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise DataError(f"read molecules from {path}", f"a header that is none ({error})", "mend it") from None
        at = header.index(_named(path, column, header))
        while True:
            begun = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if reader.line_num > begun:
                    raise DataError(
                        f"read molecules from {path}",
                        f"a quote in line {begun} that is not closed there ({error})",
                        "mend that line",
                    ) from None
                yield None
                continue
            if row:  # a line without anything is no row
                yield row[at] if at < len(row) else ""


def _parquet_column(path: Path, column: str | None) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            name = _named(path, column, file.schema_arrow.names)
            kind = file.schema_arrow.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(
                    f"read the column {name!r} of {path}", f"values of type {kind}", "name a column of text"
                )
            for batch in file.iter_batches(columns=[name]):
                yield from (value or "" for value in batch.column(0).to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"read molecules from {path}", f"no Parquet ({error})", "give a whole Parquet file") from None


def _named(path: Path, column: str | None, columns: list[str]) -> str:
    if column is None or column not in columns:
        raise DataError(
            f"read the column {column!r} of {path}",
            f"the columns {', '.join(columns) or '(none)'}",
            "set data.NAME.column to one of them",
        )
    return column


def read(section: Mapping[str, Any]) -> Iterator[str | None]:
    """The SMILES that a resolved data section of kind molecules asks for, in the source's order."""
    if section["source"] == "file":
        return own_file(Path(section["path"]), section["column"])
    return (smiles for _, smiles in chemicals())


def record(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the source: name, version, sha256, licence and citation."""
    if section["source"] != "file":
        return asdict(SOURCES[section["source"]])
    path = Path(section["path"])
    content = sha256_file(path)
    return {
        "name": path.name,
        # a file of one's own has no other version than its content
        "version": content[:12],
        "file": path.name,
        "sha256": content,
        "licence": "the owner's",
        "citation": "a file of one's own",
    }
