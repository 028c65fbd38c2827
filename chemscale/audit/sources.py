"""Checks that data sets are what the built-in catalogue and the config say of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.catalogue import CATALOGUE, Published
from chemscale.families import LANGUAGE
from chemscale.io import read_json

# the `version` of frames that were computed for the study, see `data/xtb.py`
_COMPUTED = re.compile(r"GFN2-xTB, accuracy [\d.e-]+; tblite [\w.+-]+, ase [\w.+-]+, rdkit [\w.+-]+, numpy [\w.+-]+")


def check_sources(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Sources have the facts of the catalogue; rejected rows, elements and amounts are such as the config allows."""
    for name in study["data"]:
        where = f"data/{name}/manifest.json"
        manifest = read_json(root / where)
        section, source = study["config"]["data"][name], manifest["source"]
        settings = manifest["settings"]
        published = CATALOGUE.get(settings["source"])
        if published is not None:
            _check_published(f"{where}: source", source, published, findings)
            if published.rows is not None and settings.get("molecules") is None:
                findings.equal(f"{where}: rows_in, of {published.name}", manifest["rows_in"], published.rows)
        elif settings["source"] == "xtb":
            findings.equal(f"{where}: source.name", source["name"], "xtb")
            version = str(source["version"])
            findings.holds(f"{where}: source.version", _COMPUTED.fullmatch(version) is not None, repr(version))
            findings.equal(f"{where}: source.sha256", source["sha256"], None)
        else:
            findings.equal(f"{where}: source.name", source["name"], Path(str(section["path"])).name)
            findings.equal(f"{where}: source.version", source["version"], str(source["sha256"])[:12])
            findings.equal(f"{where}: source.licence", source["licence"], "the owner's")
        if settings["kind"] == "conformers" and settings["molecules"] is None:
            chosen = CATALOGUE[settings["molecules_from"]]
            _check_published(f"{where}: source.molecules", source["molecules"], chosen, findings)
        lost, most = sum(manifest["rejected"].values()), section["max_reject_share"] * manifest["rows_in"]
        findings.holds(f"{where}: rejected", lost <= most, f"{lost:,} rows, where the config allows {most:,.0f}")
        _check_amounts(where, manifest, findings)


def _check_published(where: str, source: dict[str, Any], published: Published, findings: Findings) -> None:
    for field in ("name", "version", "file", "rows", "licence", "citation"):
        findings.equal(f"{where}.{field}", source.get(field), getattr(published, field))
    if published.sha256 is not None:
        findings.equal(f"{where}.sha256", source.get("sha256"), published.sha256)


def _check_amounts(where: str, manifest: dict[str, Any], findings: Findings) -> None:
    """Elements are those that the config allows, and no more atoms than the rows have room for."""
    settings = manifest["settings"]
    if settings["kind"] == "conformers":
        molecules = settings["num_molecules"] or len(settings["molecules"])
        findings.equal(f"{where}: rows_in", manifest["rows_in"], molecules * settings["frames_per_molecule"])
        groups = sum(numbers["groups"] for numbers in manifest["splits"].values())
        findings.within(f"{where}: groups of all splits", groups, 0, molecules)
    for split, counts in manifest["elements"].items():
        if settings["kind"] == "conformers" and settings["molecules"] is None:
            unknown = sorted(set(counts) - set(settings["elements"]))
            findings.holds(f"{where}: elements.{split}", not unknown, f"{', '.join(unknown)}, not in the config")
        if manifest["domain"] == LANGUAGE:
            # each atom takes a token; the first and the last token of a molecule are none
            amounts = manifest["splits"][split]
            most = amounts["tokens"] - 2 * amounts["rows"]
            findings.within(f"{where}: elements.{split}, all atoms", sum(counts.values()), 0, most)
