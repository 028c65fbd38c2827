"""Molecules drawn from a cell, with all that their numbers follow from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemscale.data.arrays import load_language
from chemscale.data.constitution import constitution
from chemscale.data.shards import stream
from chemscale.data.subsets import content_digest
from chemscale.evaluation import reference
from chemscale.evaluation.descriptors import describe, parsed
from chemscale.grid import Cell
from chemscale.inference import generate
from chemscale.inference.language import LanguageModel


def evaluate(asked: LanguageModel, cell: Cell, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Draw molecules from a cell's model; the raw values that `chemscale.evaluation.measures` makes numbers of.

    A molecule is known where the constitution of its parent (see `chemscale.data.constitution`) is that of a molecule
    of the cell's training subset: a stereoisomer, a salt or a tautomer of one is not new.

    Args:
        asked: the cell's model.
        cell: its spec.
        data: the folder of its data, with subset and reference molecules.
        settings: num, seed and temperature of the draw.

    Returns:
        generated: columns of the molecules that RDKit reads (`descriptors.describe`, and the digest of `constitution`);
        known: for each of them; drawn: the number of strings; left_out: strings that are no molecule, by reason;
        unreadable: molecules that RDKit does not read; reference, training_sample: columns to compare with.

    Raises:
        DataError: the data are not whole.
        InputError: nearly everything that the model draws is left out.
    """
    assert asked.policy is not None
    drawn, left_out = generate.molecules(
        asked.model,
        asked.tokenizer,
        settings["num"],
        settings["seed"],
        max_symbols=asked.policy["max_symbols"],
        temperature=settings["temperature"],
    )
    molecules = parsed([smiles for smiles, _ in drawn])
    generated = describe(molecules)
    constitutions = [constitution(molecule) for molecule in molecules]
    trained_on = _training_constitutions(data, cell)
    generated["constitution"] = [content_digest(text.encode()).hex() for text in constitutions]
    return {
        "generated": generated,
        "known": [text in trained_on for text in constitutions],
        "drawn": len(drawn) + sum(left_out.values()),
        "left_out": left_out,
        "unreadable": len(drawn) - len(constitutions),
        **reference.load(data, settings["num"], settings["seed"]),
    }


def _training_constitutions(data: Path, cell: Cell) -> set[str]:
    """The constitutions of the parents of a cell's training molecules."""
    places, _ = load_language(data).subset(cell.seed, cell.num_samples)
    found = set()
    first = 0
    for table in stream(data, ["smiles"]):
        mine = places[(places >= first) & (places < first + table.num_rows)] - first
        found |= {constitution(molecule) for molecule in parsed(table["smiles"].take(mine).to_pylist())}
        first += table.num_rows
    return found
