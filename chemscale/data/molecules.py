"""From raw SMILES to canonical molecules with SELFIES and the digest of their constitution; every reject is counted.

Policies, by config: stereo is kept or stripped, salts and mixtures are kept whole or cut to their largest fragment.
Rows that state the same canonical SMILES are one molecule; the later ones are counted as duplicates.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from chemscale.data import sources
from chemscale.data.pool import ordered_map
from chemscale.data.tokenizer import symbols
from chemscale.errors import DataError
from chemscale.io import write_json, write_parquet

# The SELFIES encoder is known to hang on extreme input; these limits don't depend on a machine's speed.
_MAX_CHARACTERS = 2000
_MAX_RINGS = 60
_CHUNK = 1000
# Rejects that say nothing against the source: the molecule is kept once
_DUPLICATE = "duplicate"


def row_digest(text: str) -> str:
    """The digest of a row or a group by its text: 32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _quiet() -> None:
    """Silence RDKit's log in this process: what it says of a row is the row's reject reason here."""
    from rdkit import rdBase

    rdBase.DisableLog("rdApp.*")


def convert(smiles: str | None, section: Mapping[str, Any]) -> tuple[str, str, str] | str:
    """A molecule's canonical SMILES, its SELFIES and its constitution, or the reason why it is rejected.

    None stands for a row of the source that could not be read.

    The constitution is the canonical SMILES of the largest fragment (most heavy atoms, then most atoms, then the first
    in the order of the SMILES text), without stereo, isotopes and explicit hydrogen, and without the charges that
    protons can balance: an acid and its salts are one parent.
    """
    import selfies
    from rdkit import Chem

    _quiet()
    if smiles is None:
        return "unreadable_row"
    if not smiles:
        return "empty"
    if len(smiles) > _MAX_CHARACTERS:
        return "too_many_characters"
    # RDKit's parser takes such a text up to the first character that it doesn't know
    if not smiles.isascii():
        return "unparsable"
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return "unparsable"
    if molecule.GetNumAtoms() == 0:
        return "empty"
    if molecule.GetRingInfo().NumRings() > _MAX_RINGS:
        return "too_many_rings"
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)  # a label of a reaction's bookkeeping, not of the molecule
    fragments = list(Chem.GetMolFrags(molecule, asMols=True)) if "." in smiles else [molecule]
    largest = _largest(fragments) if len(fragments) > 1 else molecule
    if section["fragments"] == "largest":
        molecule = largest
    canonical = Chem.MolToSmiles(molecule, isomericSmiles=section["stereo"] == "keep")
    try:
        encoded = selfies.encoder(canonical)
    except selfies.EncoderError:
        return "no_selfies"
    if not encoded:
        return "no_selfies"
    if len(symbols(encoded)) > section["max_symbols"]:
        return "too_long"
    return canonical, encoded, _constitution(largest)


def _constitution(fragment: Any) -> str:
    from rdkit import Chem
    from rdkit.Chem.MolStandardize.rdMolStandardize import Uncharger

    parent = Chem.Mol(fragment)
    Chem.RemoveStereochemistry(parent)
    # a deuterium is an atom of the graph, and so is a hydrogen that stated the stereo of its bond
    if any(atom.GetIsotope() or atom.GetAtomicNum() == 1 for atom in parent.GetAtoms()):
        for atom in parent.GetAtoms():
            atom.SetIsotope(0)
        parent = Chem.RemoveHs(parent)
    if any(atom.GetFormalCharge() for atom in parent.GetAtoms()):
        # force: also where a charge that no proton can balance, a quaternary nitrogen's, stays behind
        parent = Uncharger(force=True).uncharge(parent)
    return Chem.MolToSmiles(parent, isomericSmiles=False)


def _largest(fragments: list[Any]) -> Any:
    from rdkit import Chem

    return min(
        fragments,
        key=lambda part: (
            -part.GetNumHeavyAtoms(),
            -Chem.AddHs(part).GetNumAtoms(),
            Chem.MolToSmiles(part, isomericSmiles=False),
        ),
    )


def _convert_chunk(task: tuple[list[str | None], Mapping[str, Any]]) -> list[tuple[str, str, str] | str]:
    chunk, section = task
    return [_convert_row(smiles, section) for smiles in chunk]


def _convert_row(smiles: str | None, section: Mapping[str, Any]) -> tuple[str, str, str] | str:
    try:
        return convert(smiles, section)
    except Exception:
        # whatever a library makes of one molecule is no reason to lose the others: it is counted, and told in the log
        logging.getLogger("chemscale.data").exception("%r cannot be converted", smiles)
        return "not_convertible"


def prepare(section: Mapping[str, Any], folder: Path) -> None:
    """Write `molecules.parquet` (smiles, selfies, row, group) and its ledger `molecules.json`, the ledger last.

    The same source and section give the same bytes for every number of workers.

    Raises:
        DataError: more than the share `max_reject_share` is rejected (duplicates don't count), or none is left.
    """
    import pyarrow as pa
    from rich.console import Console
    from rich.progress import track

    log = logging.getLogger("chemscale.data")
    chunks = list(_chunks(sources.read(section)))
    tasks = [(chunk, section) for chunk in chunks]
    rejected: Counter[str] = Counter()
    kept: dict[str, tuple[str, str]] = {}
    results = ordered_map(_convert_chunk, tasks, section["workers"])
    for converted in track(results, "molecules", len(tasks), console=Console(stderr=True), transient=True):
        for result in converted:
            if isinstance(result, str):
                rejected[result] += 1
            elif result[0] in kept:
                rejected[_DUPLICATE] += 1
            else:
                kept[result[0]] = (result[1], row_digest(result[2]))
    total = len(kept) + sum(rejected.values())
    log.info("%d of %d molecules kept; rejected: %s", len(kept), total, dict(rejected))
    _check(section, total, rejected)
    table = pa.table(
        {
            "smiles": list(kept),
            "selfies": [selfies for selfies, _ in kept.values()],
            "row": [row_digest(smiles) for smiles in kept],
            "group": [group for _, group in kept.values()],
        }
    )
    write_parquet(folder / "molecules.parquet", table)
    write_json(
        folder / "molecules.json",
        {
            "rows_in": total,
            "rows_kept": len(kept),
            "rejected": dict(sorted(rejected.items())),
            "source": sources.record(section),
        },
    )


def _chunks(rows: Iterator[str | None]) -> Iterator[list[str | None]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _check(section: Mapping[str, Any], total: int, rejected: Counter[str]) -> None:
    lost = sum(count for reason, count in rejected.items() if reason != _DUPLICATE)
    if lost > section["max_reject_share"] * total or lost == total:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.most_common() if reason != _DUPLICATE)
        raise DataError(
            f"molecules: at most {section['max_reject_share']:.1%} of {total:,} rows rejected",
            f"{lost:,} ({reasons})",
            "mend the source, or raise max_reject_share",
        )
