"""What transformers makes of exported language models, as files for a test that compares; it imports no chemscale.

python tests/peers/try_export.py CASE.json OUT: the case names folders of models, and texts and prompts for them. Each
folder NAME leaves NAME.json and NAME.npz in OUT, and OUT/NAME is the folder as transformers saves it again.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

OPTIONS = {"max_new_tokens": 12, "do_sample": False}
SPECIAL = ("unk", "pad", "cls", "sep", "mask", "bos", "eos")


@torch.no_grad()
def logits(tokenizer: Any, model: Any, texts: list[str]) -> dict[str, Any]:
    """Logits of the tokens of each text, alone and in batches that are padded on either side."""
    found = {f"alone{i}": model(**tokenizer(text, return_tensors="pt")).logits[0] for i, text in enumerate(texts)}
    for side in ("left", "right"):
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
        mask = batch["attention_mask"]
        more = {} if side == "right" else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        rows = zip(model(**batch, **more).logits, mask, strict=True)
        found |= {f"{side}{i}": row[real.bool()] for i, (row, real) in enumerate(rows)}
    return {name: value.numpy() for name, value in found.items()}


def continued(tokenizer: Any, model: Any, prompts: list[str]) -> list[list[int]]:
    """Some prompts in one batch, each with the likeliest tokens after it, up to [SEP]."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    width, end, found = batch["input_ids"].shape[1], tokenizer.sep_token_id, []
    for mask, row in zip(batch["attention_mask"], model.generate(**batch, **OPTIONS).tolist(), strict=True):
        length = row.index(end, width) + 1 if end in row[width:] else len(row)
        found.append(row[width - int(mask.sum()) : length])
    return found


def main() -> None:
    """Try every folder of the case."""
    case, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    transformers.utils.logging.disable_progress_bar()
    for name, folder in case["folders"].items():
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
        slow = AutoTokenizer.from_pretrained(folder, use_fast=False)
        texts, prompts = case["texts"], case["prompts"]
        pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
        made = pipe(prompts, add_special_tokens=False, batch_size=len(prompts), **OPTIONS)
        (code,) = re.findall(r"```python\n(.*?)```", (Path(folder) / "README.md").read_text(), re.DOTALL)
        names: dict[str, Any] = {}
        with contextlib.chdir(folder):
            exec(code, names)
        facts = {
            "version": transformers.__version__,
            "keys": sorted(tokenizer(texts, padding=True)),
            "ids": [tokenizer(text)["input_ids"] for text in texts],
            "slow": [slow(text)["input_ids"] for text in texts],
            "padded": tokenizer(["[C]", "[C][C]"], padding=True)["input_ids"],
            "pair": tokenizer("[C]", "[C][C]")["input_ids"],
            "cut": len(tokenizer("[C]" * 3000, truncation=True)["input_ids"]),
            "special": [getattr(tokenizer, f"{kind}_token_id") for kind in SPECIAL],
            "decoded": [tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in texts],
            "one_by_one": [continued(tokenizer, model, [prompt])[0] for prompt in prompts],
            "batch": continued(tokenizer, model, prompts),
            "pipeline": [parts[0]["generated_text"] for parts in made],
            "card": names["selfies"],
        }
        (out / f"{name}.json").write_text(json.dumps(facts))
        np.savez(out / f"{name}.npz", **logits(tokenizer, model, texts))
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


if __name__ == "__main__":
    main()
