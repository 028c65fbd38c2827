"""From raw SMILES to canonical molecules with SELFIES and the digest of their constitution; every reject is counted.

Policies, by config: stereo is kept or stripped, salts and mixtures are kept whole or cut to their largest fragment.
The stage works in chunks that any machine may take, in units of 10,000 rows: a unit's molecules are one sorted run on
disk (`chemscale.data.runs`), and an interrupted chunk goes on after its last whole run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from chemscale.data import molecule_files, sources
from chemscale.data.constitution import constitution, framework, largest_fragment, quiet, without_stereo
from chemscale.data.molecule_files import WHITE_SPACE, Unreadable
from chemscale.data.pool import begin_item, end_items, ordered_map
from chemscale.data.runs import DIGEST, ChunkUnits, Ledger, finish_chunk, run_path, work_folder, write_run
from chemscale.data.selfies_encoder import encode
from chemscale.data.subsets import SPLITS, content_digest, split_of
from chemscale.data.tokenizer import Tokenizer, symbols, vocabulary_of
from chemscale.io import read_json

UNIT_ROWS = 10_000
# What costs without bound is met by limits that don't depend on a machine's speed: length, rings and nested branches.
# Of the 71,347 compounds of `chemicals` the longest text has 1,155 characters, and four have more rings.
_MAX_CHARACTERS = 2000
_MAX_RINGS = 60
_MAX_DEPTH = 50
# The last resort, in seconds of processor time: the slowest of the same compounds took 0.011
ROW_SECONDS = 60.0
OVER_LIMIT = "over_time_limit"
_BRACKETS = re.compile(r"\[[^\]]*\]")
_RING_NUMBER = re.compile(r"%\d\d|\d")
_ATOM_MAP = re.compile(r":\d+\]")
# what may stand around a SMILES in its cell
_BLANKS = " \t\n\v\f\r\u00a0"
_EXTENSION = re.compile(r"\S+\s+\|.*\|.*", re.DOTALL)
# bonds, and no arrows of a reaction
_ARROWS = re.compile("->|<-")
# stereo, an isotope, or a hydrogen atom by itself
_STEREO = re.compile(r"[@/\\]|\[\d|\[H")


def row_digest(text: str) -> str:
    """The digest of a row or a group by its text: 32 hex digits."""
    return _digest(text).hex()


def _digest(text: str) -> bytes:
    return content_digest(text.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class Converted:
    """A molecule: canonical SMILES, SELFIES, and the text that it shares with all molecules of its group."""

    smiles: str
    selfies: str
    group: str


def convert(smiles: str | Unreadable, section: Mapping[str, Any]) -> Converted | str:
    """The molecule of a row, or the reason why the row is rejected.

    White space around the text does not matter. Within it, it is a reject: RDKit would take what follows as a name, and
    the molecule would be another one. So is a CXSMILES extension (`CC |^1:0|`), which SELFIES cannot hold.

    The group is the constitution of the molecule's parent, or its framework where a study splits by scaffold and there
    is a ring; see `chemscale.data.constitution`.
    """
    import selfies
    from rdkit import Chem

    quiet()
    if isinstance(smiles, Unreadable):
        return smiles.reason
    smiles = smiles.strip(_BLANKS)
    if not smiles:
        return "empty"
    if limit := _beyond_limits(smiles):
        return limit
    if WHITE_SPACE.search(smiles):
        return "cxsmiles_extension" if _EXTENSION.fullmatch(smiles) else "white_space"
    # RDKit's parser takes a text up to the first character that is not ASCII, and passes over control characters at its
    # ends
    if not (smiles.isascii() and smiles.isprintable()):
        return "unparsable"
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return "reaction" if ">" in _ARROWS.sub("", smiles) else "unparsable"
    if molecule.GetNumAtoms() == 0:
        return "empty"
    if molecule.GetRingInfo().NumRings() > _MAX_RINGS:
        return "too_many_rings"
    if ":" in smiles and _ATOM_MAP.search(smiles):
        for atom in molecule.GetAtoms():
            atom.SetAtomMapNum(0)  # a label of a reaction's bookkeeping, not of the molecule
    if section["fragments"] == "largest" and "." in smiles:
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        molecule = largest_fragment(list(fragments)) if len(fragments) > 1 else molecule
    if section["stereo"] == "strip" and _STEREO.search(smiles):
        molecule = without_stereo(molecule)
    canonical = Chem.MolToSmiles(molecule, isomericSmiles=section["stereo"] == "keep")
    try:
        encoded = encode(canonical)
    except selfies.EncoderError:
        return "no_selfies"
    if not encoded:
        return "no_selfies"
    if len(symbols(encoded)) > section["max_symbols"]:
        return "too_long"
    shared = framework(molecule) if section["split_by"] == "scaffold" else ""
    return Converted(canonical, encoded, shared or constitution(molecule))


def _beyond_limits(smiles: str) -> str | None:
    """The reason why a text is not even parsed; short ones cannot hold that much."""
    if len(smiles) > _MAX_CHARACTERS:
        return "too_many_characters"
    if len(smiles) > _MAX_DEPTH:
        bare = _BRACKETS.sub("", smiles)
        if len(_RING_NUMBER.findall(bare)) > 2 * _MAX_RINGS:
            return "too_many_rings"
        depth = 0
        for character in bare if bare.count("(") > _MAX_DEPTH else "":
            depth += (character == "(") - (character == ")")
            if depth > _MAX_DEPTH:
                return "too_many_branches"
    return None


@dataclass(frozen=True)
class _Unit:
    """Rows of the source that one process takes: their number in the source and what to leave out."""

    number: int
    first: int
    rows: list[str | Unreadable]
    section: Mapping[str, Any]
    work: Path
    over_limit: frozenset[str]


def _convert_unit(unit: _Unit) -> Ledger:
    """Convert a unit's rows and write their run; its ledger."""
    import pyarrow as pa

    section = unit.section
    known = _pinned_symbols(section["vocabulary"]) if section["unknown_symbols"] == "reject" else None
    ledger = Ledger(rows_in=len(unit.rows))
    kept: list[Converted] = []
    places: list[int] = []
    for index, smiles in enumerate(unit.rows):
        if unit.over_limit and isinstance(smiles, str) and (digest := row_digest(smiles)) in unit.over_limit:
            ledger.rejected[OVER_LIMIT] += 1
            ledger.over_limit.append(digest)
            continue
        begin_item(index, ROW_SECONDS)
        result = _convert_row(smiles, section)
        if isinstance(result, Converted) and known is not None and not known.issuperset(symbols(result.selfies)):
            result = "outside_vocabulary"
        if isinstance(result, str):
            ledger.rejected[result] += 1
        else:
            kept.append(result)
            places.append(unit.first + index)
    end_items()
    groups = [_digest(molecule.group) for molecule in kept]
    splits = [SPLITS.index(split_of(group.hex(), section["validation"], section["test"])) for group in groups]
    columns = {
        "row": pa.array([_digest(molecule.smiles) for molecule in kept], DIGEST),
        "place": pa.array(places, pa.int64()),
        "group": pa.array(groups, DIGEST),
        "split": pa.array(splits, pa.uint8()),
        "smiles": pa.array([molecule.smiles for molecule in kept], pa.string()),
        "selfies": pa.array([molecule.selfies for molecule in kept], pa.string()),
    }
    ledger.rows_kept = len(kept)
    write_run(run_path(unit.work, unit.number), pa.table(columns), ledger)
    return ledger


@cache
def _pinned_symbols(path: str) -> frozenset[str]:
    return frozenset(Tokenizer.load(Path(path)).vocabulary)


def _convert_row(smiles: str | Unreadable, section: Mapping[str, Any]) -> Converted | str:
    try:
        return convert(smiles, section)
    except Exception:
        # whatever a library makes of one molecule is no reason to lose the others: it is counted, and told in the log
        logging.getLogger("chemscale.data").exception("%r cannot be converted", smiles)
        return "not_convertible"


def prepare(
    section: Mapping[str, Any],
    folder: Path,
    located: Mapping[str, Any],
    code: str,
    chunk: tuple[int, int],
    workers: int,
    marker: Path,
) -> None:
    """Write the runs of every unit of a chunk, and its record, `marker`; unit u is in chunk u modulo their number.

    Runs that are there already are kept. The runs are the same bytes for every number of workers and of chunks. Rows
    that an earlier manifest of the folder names as beyond the time limit are rejected without a try, so that a faster
    machine makes the same data.

    Args:
        section: the resolved data section.
        folder: the data folder.
        located: the source, as `chemscale.data.sources.locate` found it.
        code: the digest of the code that decides the rows.
        chunk: the chunk's number from 0, and the number of chunks.
        workers: processes.
        marker: the JSON file that says that the chunk is done.

    Raises:
        DataError: the source is not what it should be.
    """
    log = logging.getLogger("chemscale.data")
    sources.check(located)
    if section["vocabulary"] is not None:
        # before any row: a run that was made by another vocabulary would be taken for one by this
        vocabulary_of(section, {})
    work = work_folder(folder, section, located["record"], code)
    earlier = folder / "manifest.json"
    slow = set(read_json(earlier).get("over_time_limit", [])) if earlier.exists() else set()

    def retry(unit: _Unit, item: int) -> _Unit:
        smiles = unit.rows[item]
        assert isinstance(smiles, str), "nothing is computed of a row that could not be read"
        log.warning("row %d took more than %g s and is rejected: %r", unit.first + item, ROW_SECONDS, smiles)
        slow.add(row_digest(smiles))
        return replace(unit, over_limit=frozenset(slow))

    known = frozenset(slow)
    units = ChunkUnits(molecule_files.read(located), UNIT_ROWS, work, chunk)
    tasks = (_Unit(number, number * UNIT_ROWS, rows, section, work, known) for number, rows in units)
    finish_chunk(marker, units, ordered_map(_convert_unit, tasks, workers, retry), "molecules", located["record"])
