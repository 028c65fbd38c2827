"""Checks of drawn molecules by RDKit: what is kept beside their SMILES follows from these.

The same version of RDKit gives the same columns, digit by digit; another one is asked only for what does not change.
"""

from __future__ import annotations

import math
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.data.passport import row_batches
from chemscale.data.subsets import content_digest
from chemscale.errors import shown
from chemscale.evaluations import EVALUATION, read_evaluation
from chemscale.grid import Cell
from chemscale.io import read_json

_SAME_EVERYWHERE = ("weight", "rings", "heavy_atoms")
_TOLERANCE = 1e-6
_LONGEST = 10_000  # characters of a SMILES


def check_molecules(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Drawn molecules and those that they are compared with are molecules, with the descriptors of each."""
    findings.compared += 1  # a study may draw none
    splits_of = cache(partial(_splits, root))
    paths = [path for path in study["evaluated"] if path not in study["waived"]]
    known: dict[str, dict[str, Any]] = {}  # columns of a molecule, by its SMILES: references are shared
    for path in paths:
        where = f"{path}/{EVALUATION}"
        record = read_evaluation(root / where)
        if record["generation"] is None:
            continue
        try:
            here = version("rdkit")
        except PackageNotFoundError:
            findings.unchecked.append("drawn molecules: RDKit is not installed here")
            return
        same = record["versions"].get("rdkit") == here
        if not same:
            made = f"{record['versions'].get('rdkit')} made them, {here} is here"
            findings.unchecked.append(f"{where}: further columns of drawn molecules (RDKit {made})")
        for name in ("generated", "reference", "training_sample"):
            _check_columns(f"{where}: {name}", record["generation"][name], same, known, findings)
        data = Cell.from_dict(read_json(root / path / "config.json")).data["name"]
        if same and study["config"]["data"][data]["split_by"] == "constitution":
            # then a row's group is the digest of its constitution
            splits = splits_of(data)
            for name, split in (("reference", "validation"), ("training_sample", "train")):
                of_others = [
                    smiles
                    for smiles in record["generation"][name]["smiles"]
                    if splits.get(known[smiles].get("constitution", "")) != split
                ]
                found = f"{len(of_others)} molecules, such as {shown(of_others[:1], 100)}, are no rows of {split}"
                findings.holds(f"{where}: {name}", not of_others, found)


def _splits(root: Path, name: str) -> dict[str, str]:
    """The split of each group of a data set."""
    found: dict[str, str] = {}
    for batch in row_batches(root / "data" / name / "rows.parquet", ["group", "split"]):
        found.update(zip(batch["group"].to_pylist(), batch["split"].to_pylist(), strict=True))
    return found


def _check_columns(
    where: str, columns: dict[str, list[Any]], same: bool, known: dict[str, dict[str, Any]], findings: Findings
) -> None:
    """Compare columns of molecules with those that RDKit gives; of each column, the first difference is named."""
    names = [name for name in columns if name != "smiles" and (same or name in _SAME_EVERYWHERE)]
    different: set[str] = set()
    for place, smiles in enumerate(columns["smiles"]):
        findings.compared += 1
        expected = known.get(smiles)
        if expected is None:
            expected = known[smiles] = _columns_of(smiles, same)
        if not expected:
            if "smiles" not in different:
                findings.differ(f"{where}: molecule {place}, {shown(smiles, 100)!r}, which RDKit does not read as such")
            different.add("smiles")
            continue
        for name in names:
            if name in different or name not in expected:
                continue
            found = columns[name][place]
            if not _equal(found, expected[name]):
                different.add(name)
                told = f"{shown(found, 60)}, {shown(expected[name], 60)} follows from {shown(smiles, 100)}"
                findings.differ(f"{where}: molecule {place}, {name}: {told}")


def _columns_of(smiles: str, same: bool) -> dict[str, Any]:
    """The columns of a molecule by its SMILES; empty where RDKit does not read it, or writes it otherwise."""
    from chemscale.data.constitution import constitution
    from chemscale.evaluation.descriptors import describe, parsed

    molecules = parsed([smiles]) if isinstance(smiles, str) and len(smiles) <= _LONGEST else []
    if not molecules:
        return {}
    found = {name: values[0] for name, values in describe(molecules).items()}
    if same and found["smiles"] != smiles:
        return {}
    return {**found, "constitution": content_digest(constitution(molecules[0]).encode()).hex()}


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return isinstance(found, int | float) and math.isclose(found, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(found) is type(expected) and bool(found == expected)
