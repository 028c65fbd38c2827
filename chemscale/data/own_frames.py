"""Frames of own files: extended XYZ (parser extxyz) and SQLite databases of ASE (ase_db), one frame at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from chemscale.data import ase_databases, extended_xyz
from chemscale.data.blocks import (
    UNKNOWN,
    Block,
    Frame,
    Rejected,
    are_elements,
    as_array,
    hill_formula,
    source_files,
    wanted_names,
)
from chemscale.data.electronic_states import charge_of_smiles
from chemscale.errors import DataError

_KEYS_SHOWN = 20
_LONGEST_TEXT = 2000  # characters


def counts(located: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, int]:
    """Frames of every molecule, rejected ones included.

    Raises:
        DataError: a file is missing, empty or damaged, or without frames.
    """
    found: Counter[str] = Counter()
    for frame in _frames(located):
        found[frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)] += 1
    return found


def blocks(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[Block | Rejected]:
    """The frames of the molecules that the section takes, each a block, or rejected; raises what `counts` does."""
    found: Counter[str] = Counter()
    asked = section.get("molecules")
    for frame in _frames(located):
        molecule = frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)
        order = found[molecule]
        found[molecule] += 1
        if asked is not None and molecule not in (*asked, UNKNOWN):
            continue
        yield frame if isinstance(frame, Rejected) else _block(frame, molecule, order, section)
    wanted_names(section, list(found), located)


def _frames(located: Mapping[str, Any]) -> Iterator[Frame | Rejected]:
    """The frames of own files, unchecked but for what cannot be read; `DataError` where a file has none."""
    parser = PARSERS[located["parser"]]
    for path in source_files(located):
        frames = 0
        for frame in parser(path):
            frames += 1
            yield frame
        if frames == 0:
            raise DataError(f"read {path}", "no frames", "check what wrote it")


def _molecule(frame: Frame, section: Mapping[str, Any]) -> str:
    """The name of a frame's molecule, or "unknown"."""
    key = section.get("molecule_key")
    if key is not None:
        return _storable(frame.texts.get(key)) or UNKNOWN
    return hill_formula(frame.numbers) if are_elements(frame.numbers) else UNKNOWN


def _block(frame: Frame, molecule: str, order: int, section: Mapping[str, Any]) -> Block | Rejected:
    """A frame of an own file as a block of one, or the reason why it cannot be."""
    energy_key, forces_key = section.get("energy_key") or "energy", section.get("forces_key") or "forces"
    where, properties = frame.where, frame.properties
    energy, forces = (properties.get(key) for key in (energy_key, forces_key))
    reason = None
    if len(frame.numbers) == 0:
        reason = "unreadable"
    elif not are_elements(frame.numbers):
        reason = "unknown_element"
    elif molecule == UNKNOWN:
        reason = "no_molecule"
    elif frame.periodic:
        reason = "periodic"
    elif energy is None:
        reason = "no_energy"
    elif forces is None:
        reason = "no_forces"
    elif not (_numeric(energy) and np.size(energy) == 1 and _numeric(forces)):
        reason = "unreadable"
    elif np.shape(forces) != frame.positions.shape:
        reason = "wrong_shape"
    if reason is not None:
        if not reason.startswith("no_"):
            return Rejected(molecule, reason, where)
        # where a key is wrong for the whole file, the names that it has instead are the answer
        names = sorted(str(key)[:40] for key in properties)
        more = f" and {len(names) - _KEYS_SHOWN} more" if len(names) > _KEYS_SHOWN else ""
        note = f"it has {', '.join(names[:_KEYS_SHOWN])}{more}{'; ' if frame.remark else ''}{frame.remark}"
        return Rejected(molecule, reason, f"{where} ({note})", note=note)
    smiles, stated = _storable(frame.texts.get("smiles")), dict(frame.stated)
    if smiles and (charge := charge_of_smiles(smiles)):
        stated["charge of smiles"] = charge
    return Block(
        molecule,
        frame.numbers,
        frame.positions[None],
        np.asarray(energy).reshape(1),
        np.asarray(forces)[None],
        np.array([order]),
        where,
        None,
        smiles,
        {key: [value] for key, value in stated.items() if key not in (energy_key, forces_key)},
    )


def _storable(text: str | None) -> str | None:
    """A text, or None where it is too long for a name or a SMILES, or cannot be written as UTF-8."""
    if text is None or len(text) > _LONGEST_TEXT:
        return None
    # of JSON with halves of surrogate pairs
    return None if any("\ud800" <= character <= "\udfff" for character in text) else text


def _numeric(value: Any) -> bool:
    """Whether a value is a number or an array of numbers; true and false are none."""
    return as_array(value).dtype.kind in "fiu"


PARSERS = {"extxyz": extended_xyz.frames, "ase_db": ase_databases.frames}
