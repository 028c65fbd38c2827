"""Where data come from: published sources of the catalogue, and files of one's own.

Molecules are read by `chemscale.data.molecule_files`, frames by `chemscale.data.structures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chemscale.catalogue import CATALOGUE, Published
from chemscale.data.archives import members
from chemscale.data.cache import check_file, file_stamp, hashes
from chemscale.data.downloads import installed, obtain
from chemscale.data.molecule_files import check_own_file, identifiers
from chemscale.errors import DataError
from chemscale.families import LANGUAGE, POTENTIALS
from chemscale.io import sha256_file


def locate(section: Mapping[str, Any], cache: Path, downloads: Mapping[str, Any]) -> dict[str, Any]:
    """Find the files of a data section of kind molecules or structures, fetched and taken out of archives if needed.

    Args:
        section: the resolved section: kind, source ("file" or a name of the catalogue), path, column; for structures of
            a file of one's own format, energy_unit and length_unit.
        cache: the folder for what is fetched.
        downloads: offline (open no connection) and mirror (a folder or an address, or None).

    Returns:
        What `read` in `chemscale.data.molecule_files` or `chemscale.data.structures` takes, as JSON values: files
        (paths to read, in order), parser, column, member (the file to read in a zip archive, else None), energy_unit,
        length_unit, stamps (size and time of change of each file), and record: what a manifest says of the source.

    Raises:
        DataError: the source is not in the catalogue or of the other domain, or its files cannot be had or are not the
            published ones; a file of one's own is missing or of a kind that is not read.
    """
    name = section["source"]
    domain = LANGUAGE if section["kind"] == "molecules" else POTENTIALS
    if name == "file":
        path = Path(section["path"])
        if domain == LANGUAGE:
            # before the whole file is read for its sha256
            check_own_file(path, section.get("column"))
        else:
            # before its hash, which takes long for a file without an end
            check_file(path)
        own_file_found = {
            "files": [str(path)],
            "parser": "own_file" if domain == LANGUAGE else section["format"],
            "column": section.get("column"),
            "member": None,
            "energy_unit": section.get("energy_unit"),
            "length_unit": section.get("length_unit"),
            "record": _own_record(path, hashes(path, cache).sha256),
        }
        return _stamped(own_file_found)
    entry = CATALOGUE.get(name)
    if entry is None or entry.domain != domain:
        known = ", ".join(sorted(other.name for other in CATALOGUE.values() if other.domain == domain))
        raise DataError(f"read {section['kind']} of the source {name!r}", "no such source", f"name file or {known}")
    own = section.get("path")
    obtained = obtain(
        entry,
        cache,
        path=None if own is None else Path(own),
        mirror=downloads.get("mirror"),
        offline=bool(downloads.get("offline", False)),
    )
    record = _published_record(entry, obtained.sha256)
    if obtained.md5 is not None:
        record["md5"] = obtained.md5
    # plain text in a zip archive is read in place, compressed members are taken out
    in_place = entry.parser == "smiles_lines_zip"
    taken_out = [] if in_place or not entry.members else members(obtained, entry, cache)
    if taken_out:
        record["members"] = {
            member.path: member.sha256 or hashes(path, cache).sha256
            for member, path in zip(entry.members, taken_out, strict=True)
        }
    found = {
        "files": [str(path) for path in taken_out or [obtained.path]],
        "parser": entry.parser,
        "column": "SMILES" if entry.parser == "smiles_csv_gz" else None,
        "member": entry.members[0].path if in_place else None,
        "energy_unit": entry.energy_unit,
        "length_unit": entry.length_unit,
        "record": record,
    }
    return _stamped(found)


def _stamped(located: dict[str, Any]) -> dict[str, Any]:
    """What was located, with the size and the time of change of its files."""
    return located | {"stamps": [file_stamp(Path(path)) for path in located["files"]]}


def check(located: Mapping[str, Any]) -> None:
    """See that the files are those that `locate` found and checked.

    Raises:
        DataError: one is gone, or was changed since.
    """
    for name, stamp in zip(located["files"], located["stamps"], strict=True):
        path = Path(name)
        if not path.is_file() or file_stamp(path) != stamp:
            found = "other content than when it was checked" if path.is_file() else "no file any more"
            raise DataError(f"read {path}", found, "delete source.json of the data set's folder, and run it again")


def record(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a source of the catalogue: the facts of the published file, which is not looked at."""
    entry = CATALOGUE[section["source"]]
    return _published_record(entry, entry.sha256)


def chemicals() -> Iterator[tuple[int, str]]:
    """PubChem CID and SMILES of each compound of the `chemicals` package, in the file's order.

    Raises:
        DataError: the package is not installed, or its file is not the pinned one.
    """
    entry = CATALOGUE["chemicals"]
    path = installed(entry)
    pinned = f"{entry.package}=={entry.version}"
    if path is None:
        raise DataError(f"read the source {entry.name}", "no such package or file", f"pip install {pinned}")
    found = sha256_file(path)
    if found != entry.sha256:
        raise DataError(
            f"read {path.name} of {entry.name} {entry.version}",
            f"sha256 {found}",
            f"{entry.sha256} is pinned: pip install --force-reinstall {pinned}",
        )
    return identifiers(path)


def _published_record(entry: Published, sha256: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "file": entry.file,
        "rows": entry.rows,
        "sha256": sha256,
        "licence": entry.licence,
        "citation": entry.citation,
    }
    if entry.urls:
        facts["urls"] = list(entry.urls)
    if entry.distribution is not None:
        facts["distribution"] = entry.distribution
    if entry.package is not None:
        facts["distribution"] = f"{entry.package}=={entry.version}"
    return facts


def _own_record(path: Path, sha256: str) -> dict[str, Any]:
    return {
        "name": path.name,
        # a file of one's own has no other version than its content
        "version": sha256[:12],
        "file": path.name,
        "sha256": sha256,
        "licence": "the owner's",
        "citation": "a file of one's own",
    }
