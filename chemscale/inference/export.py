"""A finished language cell as a folder for Hugging Face's transformers, with a card that says where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import InputError
from chemscale.families import LANGUAGE
from chemscale.inference import hugging_face
from chemscale.inference.finished import FinishedCell, finished_cell
from chemscale.inference.language import load_weights
from chemscale.io import read_json
from chemscale.units import format_number

_ARCHITECTURE = {"chemgpt": "GPT-Neo's", "chemgpt_modern": "Llama's with tied embeddings"}


def export(folder: Path, out: Path, to: str) -> dict[str, Any]:
    """Write a finished cell's model to a folder that another program loads; returns where and what.

    Raises:
        InputError: there is no finished language cell, the target is not known, or `out` holds other files.
        RecordError: the weights are missing or changed.
    """
    if to != "hf":
        raise InputError(f"export to {to!r}", "no such target yet", "name hf")
    found = finished_cell(folder, LANGUAGE)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"export to {out}", "a folder that is not empty", "name a new one")
    tokenizer = Tokenizer.load(found.data / "tokenizer.json")
    hugging_face.save(load_weights(found, len(tokenizer)), tokenizer, out, _card(found))
    return {"folder": str(out), "cell": found.cell.path, "validation_loss": found.metrics["val_loss"]}


def _card(found: FinishedCell) -> str:
    """The model card: what the model is, what it was trained on, and how well it does."""
    cell, metrics = found.cell, found.metrics
    passport = read_json(found.data / "passport.json")
    provenance = read_json(found.folder / "provenance.json")
    source = passport["source"]
    rows = "\n".join(
        f"| {name} | {value} |"
        for name, value in (
            ("parameters without embeddings", format_number(metrics["num_params_non_embedding"], "N")),
            ("all parameters", format_number(metrics["num_params"], "N")),
            ("training molecules", f"{cell.num_samples:,} (seed {cell.seed})"),
            ("distinct tokens, tokens seen", f"{metrics['tokens_unique']:,}, {metrics['tokens_seen']:,}"),
            ("protocol, steps", f"{metrics['protocol']}, {metrics['steps']:,}"),
            ("validation loss", f"{metrics['val_loss']:.6f} nats per token"),
            ("test loss", f"{metrics['test_loss']:.6f} nats per token"),
            ("digest of the data", f"`{metrics['data_digest']}`"),
            ("digest of the training subset", f"`{metrics['subset_digest']}`"),
            ("digest of the settings", f"`{metrics['config_digest']}`"),
            ("digest of the code", f"`{metrics['code_digest']}`"),
            ("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())),
        )
    )
    return f"""---
library_name: transformers
tags: [chemistry, molecules, selfies]
---
# {cell.family} {cell.size}, {cell.num_samples:,} molecules, seed {cell.seed}

A generative language model of molecules as SELFIES strings, trained by chemscale as the cell `{cell.path}` of the study
`{cell.study}`. The architecture is {_ARCHITECTURE[cell.family]}.
The tokenizer takes a SELFIES string and adds [CLS] and [SEP].

| | |
|---|---|
{rows}

Training data: {source["name"]} {source.get("version", "")}, licence {source.get("licence", "not stated")}.
{source.get("citation", "")}
{_policy(found)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
prompt = tokenizer("[CLS][C][C]", return_tensors="pt", add_special_tokens=False)
model.generate(**prompt, do_sample=True, max_length=128)
```
"""


def _policy(found: FinishedCell) -> str:
    """What was done to the molecules before training, in a sentence."""
    settings = read_json(found.data / "manifest.json")["settings"]
    stereo = "Stereo is kept" if settings["stereo"] == "keep" else "Stereo and isotopes are stripped"
    fragments = "salts stay whole" if settings["fragments"] == "keep" else "the largest fragment is kept"
    return f"{stereo}, {fragments}, and SELFIES of more than {settings['max_symbols']} symbols are left out."
