"""A finished cell as a folder for another program, with a card that says where it comes from.

A language model for Hugging Face's transformers; a potential for `chemscale.calculator`, with what that reads of a cell
and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import ChemscaleError, InputError, RecordError
from chemscale.families import LANGUAGE, LOSS_UNITS, POTENTIALS
from chemscale.inference import hugging_face
from chemscale.inference.finished import FinishedCell, finished_cell
from chemscale.inference.language import load_weights
from chemscale.inference.outputs import new_folder
from chemscale.inference.potential import load
from chemscale.io import read_json, write_text
from chemscale.models import weights
from chemscale.units import format_number

_ARCHITECTURE = {"chemgpt": "GPT-Neo's", "chemgpt_modern": "Llama's with tied embeddings"}


def export(folder: Path, out: Path, to: str) -> dict[str, Any]:
    """Write a finished cell's model to a folder that another program loads; returns where and what.

    Args:
        folder: the cell's.
        out: a new folder.
        to: hf (a language model for transformers) or ase (a potential for `chemscale.calculator`).

    Raises:
        InputError: there is no finished cell of the target's domain, the target is not known, or `out` holds files.
        RecordError: the weights are missing, changed or not finite, or a record is damaged.
    """
    if to not in ("hf", "ase"):
        raise InputError(f"export to {to!r}", "no such target", "name hf (language models) or ase (potentials)")
    found = finished_cell(folder, LANGUAGE if to == "hf" else POTENTIALS)
    if to == "hf":
        tokenizer = Tokenizer.load(found.data / "tokenizer.json")
        model = load_weights(found, len(tokenizer))
        card = _made(found, lambda: _card(found))
        new_folder(out)
        hugging_face.save(model, tokenizer, out, card)
    else:
        trained = load(folder / "checkpoint")
        spec: dict[str, Any] = {"family": trained.family, "knobs": dict(trained.knobs)}
        spec |= {"species": list(trained.species), "closest": dict(trained.closest)}
        if (trained.family, trained.knobs) != (found.cell.family, found.cell.knobs):
            raise RecordError(f"export {folder}", f"weights of {spec}", f"weights of {found.cell.knobs} are expected")
        card = _made(found, lambda: _card_of_potential(found, spec))
        new_folder(out)
        write_text(out / "README.md", card)
        weights.save(out, trained.potential.state_dict(), spec)
    return {"folder": str(out), "cell": found.cell.path, "validation_loss": found.metrics["val_loss"]}


def _made(found: FinishedCell, card: Callable[[], str]) -> str:
    """A card of a cell; `RecordError` where a record of the cell or of its study lacks what it says, or is damaged."""
    try:
        text = card()
        text.encode()
    except ChemscaleError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"records that lack something or are damaged ({type(error).__name__}: {error})"
        raise RecordError(f"write the card of {found.folder}", reason, "export the cell where it was made") from error
    return text


def _rows(found: FinishedCell, unit: str, *own: tuple[str, str]) -> str:
    """The table of a card: what any cell has, and `own` of its domain."""
    cell, metrics = found.cell, found.metrics
    provenance = read_json(found.folder / "provenance.json")
    return "\n".join(
        f"| {name} | {value} |"
        for name, value in (
            ("parameters without embeddings", format_number(metrics["num_params_non_embedding"], "N")),
            ("all parameters", format_number(metrics["num_params"], "N")),
            ("training samples", f"{cell.num_samples:,} (seed {cell.seed})"),
            ("protocol, steps", f"{metrics['protocol']}, {metrics['steps']:,}"),
            ("validation loss", f"{metrics['val_loss']:.6f} {unit}"),
            ("test loss", f"{metrics['test_loss']:.6f} {unit}"),
            *own,
            ("digest of the data", f"`{metrics['data_digest']}`"),
            ("digest of the training subset", f"`{metrics['subset_digest']}`"),
            ("digest of the settings", f"`{metrics['config_digest']}`"),
            ("digest of the code", f"`{metrics['code_digest']}`"),
            ("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())),
        )
    )


def _source(found: FinishedCell) -> str:
    """Where the training data come from, and under which licence."""
    source = read_json(found.data / "passport.json")["source"]
    head = (
        f"Training data: {source['name']} {source.get('version', '')}, licence {source.get('licence', 'not stated')}."
    )
    return f"{head}\n{source.get('citation', '')}"


def _card_of_potential(found: FinishedCell, spec: Mapping[str, Any]) -> str:
    """The card of a potential: what it is, what it was trained on, how well it does, and how to load it."""
    from ase.data import chemical_symbols

    cell, metrics = found.cell, found.metrics["test_metrics"]
    elements = ", ".join(chemical_symbols[number] for number in spec["species"])
    rows = _rows(
        found,
        LOSS_UNITS[cell.domain],
        ("test energy MAE", f"{metrics['energy_mae']:.6f} meV/atom"),
        ("test force RMSE", f"{metrics['force_rmse']:.6f} meV/angstrom per component"),
        ("elements", elements),
        ("size", ", ".join(f"{name} {value}" for name, value in cell.knobs.items())),
    )
    return f"""# {cell.family} {cell.size}, {cell.num_samples:,} frames, seed {cell.seed}

An interatomic potential, trained by chemscale as the cell `{cell.path}` of the study `{cell.study}`. Energies are eV,
lengths angstrom; a total energy holds the reference energies of the atoms, fitted to the training frames.

| | |
|---|---|
{rows}

{_source(found)}

```python
import chemscale

atoms.calc = chemscale.calculator(".")
```
"""


def _card(found: FinishedCell) -> str:
    """The card of a language model: what it is, what it was trained on, and how well it does."""
    cell, metrics = found.cell, found.metrics
    tokens = f"{metrics['tokens_unique']:,}, {metrics['tokens_seen']:,}"
    rows = _rows(found, LOSS_UNITS[cell.domain], ("distinct tokens, tokens seen", tokens))
    return f"""---
library_name: transformers
tags: [chemistry, molecules, selfies]
---
# {cell.family} {cell.size}, {cell.num_samples:,} molecules, seed {cell.seed}

A generative language model of molecules as SELFIES strings, trained by chemscale as the cell `{cell.path}` of the study
`{cell.study}`. The architecture is {_ARCHITECTURE[cell.family]}.

| | |
|---|---|
{rows}

{_source(found)}
{_policy(found)}

{hugging_face.USE}"""


def _policy(found: FinishedCell) -> str:
    """What was done to the molecules before training, in a sentence."""
    settings = read_json(found.data / "manifest.json")["settings"]
    stereo = "Stereo is kept" if settings["stereo"] == "keep" else "Stereo and isotopes are stripped"
    fragments = "salts stay whole" if settings["fragments"] == "keep" else "the largest fragment is kept"
    return f"{stereo}, {fragments}, and SELFIES of more than {settings['max_symbols']} symbols are left out."
