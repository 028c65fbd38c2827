"""Time the training of ChemGPT against transformers, and against the matrix products of one core, interleaved.

    python tests/benchmarks/train_language.py [--repeats 5] [--cases w256 w256_filled w512 w16 w32 w64 start]

On one core, in fp32, on molecules of PubChem (the PyPI package chemicals). Useful tokens are predicted ones: all of a
molecule but the first, no pads. Ours is a cell's own training, with its curve and all bookkeeping, between the end of
one step and that of another one.

- w256 (8 layers, 16 heads): transformers' GPTNeoForCausalLM under its Trainer, with its default collator that pads to
  the longest of a batch, and with its grouping by length, which sorts 50 batches at a time: each is timed over whole
  groups. Molecules in a step: 16 for the Trainer, 16 in the mean for ours, whose batches are filled by tokens.
- w256, w256_filled and w512: the share of one core's peak: 6 (N + V w) FLOPs a useful token, against the best median
  over square products of 512 to 4,096. The Trainer's 16 molecules are 474 tokens, too few to make light of the
  optimiser's step; w256_filled and w512 take 2,048.
- w16, w32, w64 (24 layers, 16 heads): GPTNeoForCausalLM with torch's AdamW as it comes, over the very batches of ours.
- start: seconds from the start of a process to the end of its first step, for 24 layers of w 16.

Takes under twenty minutes. Writes `results/benchmarks/language.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from chemscale.cost.parameters import count
from chemscale.data.arrays import LanguageData
from chemscale.data.tokenizer import PAD, Tokenizer
from chemscale.grid import Cell
from chemscale.training.meters import matmul_peak
from chemscale.training.sampler import TokenBatches

sys.path.insert(0, str(Path(__file__).parent))
from language_cells import KEY, PEAK_SIZES, RATE, SUBSET, WARM, Ours, language_cell, prepare
from rows import timed_row, write_rows

GROUP = 50  # batches that transformers sorts at a time
CASES: dict[str, dict[str, Any]] = {
    "w256": {"layers": 8, "width": 256, "heads": 16, "molecules": 16, "steps": 50},
    "w256_filled": {"layers": 8, "width": 256, "heads": 16, "tokens": 2048, "steps": 12},
    "w512": {"layers": 8, "width": 512, "heads": 16, "tokens": 2048, "steps": 6},
    "w16": {"layers": 24, "width": 16, "heads": 16, "tokens": 1024, "steps": 60},
    "w32": {"layers": 24, "width": 32, "heads": 16, "tokens": 1024, "steps": 60},
    "w64": {"layers": 24, "width": 64, "heads": 16, "tokens": 1024, "steps": 60},
}
# the share of the peak that each is to reach, where one is set
AGAINST_PEAK = {"w256": None, "w256_filled": 0.7, "w512": 0.82}


def filled_by(lengths: NDArray[np.int64], mean: int) -> int:
    """The tokens of a batch that holds `mean` molecules in the mean."""
    low, high = int(lengths.max()), int(lengths.max()) * mean
    while low < high:
        middle = (low + high) // 2
        if len(lengths) / TokenBatches(lengths, middle, 0).steps_in(1) < mean:
            low = middle + 1
        else:
            high = middle
    return low


# --- transformers -----------------------------------------------------------------------------------------------------


def gpt_neo(case: dict[str, Any], vocab_size: int) -> GPTNeoForCausalLM:
    """The same model in transformers, its weights drawn anew."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=vocab_size,
        hidden_size=case["width"],
        num_layers=case["layers"],
        num_heads=case["heads"],
        attention_types=[[["global", "local"], case["layers"] // 2]],
        max_position_embeddings=2048,
        use_cache=False,
    )
    return GPTNeoForCausalLM(config)


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        self.ends.append(time.perf_counter())


def trainer_rate(
    model: GPTNeoForCausalLM, rows: list[dict[str, Any]], tokenizer: Any, first: int, steps: int, **options: Any
) -> float:
    """Useful tokens per second of the Trainer, over `steps` steps after the first `first`."""
    padded = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    useful: list[int] = []

    def collate(chosen: list[dict[str, Any]]) -> Any:
        useful.append(sum(len(row["input_ids"]) - 1 for row in chosen))
        return padded([{"input_ids": row["input_ids"]} for row in chosen])

    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            per_device_train_batch_size=16,
            max_steps=first + steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.1,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            **options,
        )
        Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()
    return sum(useful[first : first + steps]) / (clock.ends[-1] - clock.ends[first - 1])


def bucketed_rates(
    model: GPTNeoForCausalLM, data: LanguageData, index: NDArray[np.int64], batches: TokenBatches
) -> Callable[[int], float]:
    """A function that trains some further steps over our batches, and gives their useful tokens per second."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    stream = batches.from_step(0)

    def block(chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, int]:
        strings = [
            torch.from_numpy(data.tokens[data.offsets[i] : data.offsets[i + 1]].astype(np.int64)) for i in chosen
        ]
        tokens = torch.nn.utils.rnn.pad_sequence(strings, batch_first=True, padding_value=PAD)
        return tokens, tokens.masked_fill(tokens == PAD, -100), sum(len(string) - 1 for string in strings)

    def rate(steps: int) -> float:
        useful = 0
        begun = time.perf_counter()
        for step in range(WARM + steps):
            if step == WARM:
                useful, begun = 0, time.perf_counter()
            tokens, labels, predicted = block(index[next(stream)])
            model(input_ids=tokens, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            useful += predicted
        return useful / (time.perf_counter() - begun)

    return rate


# --- the machine ------------------------------------------------------------------------------------------------------


def first_step(cell: Cell, root: Path, data_dir: Path) -> float:
    """Seconds from the start of a process to the end of its first step."""
    job = {"cell": cell.to_dict(), "root": str(root), "data_dir": str(data_dir)}
    begun = time.time()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("first_step.py")), json.dumps(job)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout) - begun


# --- the cases --------------------------------------------------------------------------------------------------------


def run_case(name: str, repeats: int, data: LanguageData, data_dir: Path, root: Path) -> None:
    case = CASES[name]
    tokenizer = Tokenizer.load(data_dir / KEY / "tokenizer.json")
    index, _ = data.subset(0, SUBSET)
    lengths = data.offsets[index + 1] - data.offsets[index] - 1
    batch_tokens = case.get("tokens") or filled_by(lengths, case["molecules"])
    cell = language_cell(case, batch_tokens)
    batches = TokenBatches(lengths, batch_tokens, 0)
    ours = Ours(cell, root, data_dir)
    peers: dict[str, Callable[[], float]] = {}
    parameters = count("chemgpt", cell.knobs, len(tokenizer))
    flops_per_token = 6 * (parameters.non_embedding + len(tokenizer) * case["width"])
    if name == "w256":
        with tempfile.TemporaryDirectory() as scratch:
            for file, content in tokenizer.hugging_face_files().items():
                (Path(scratch) / file).write_text(json.dumps(content))
            theirs = AutoTokenizer.from_pretrained(scratch)
        rows = [{"input_ids": data.tokens[data.offsets[i] : data.offsets[i + 1]].tolist()} for i in index]
        model = gpt_neo(case, len(tokenizer))
        peers["transformers Trainer"] = lambda: trainer_rate(model, rows, theirs, WARM, 25)
        peers["transformers Trainer grouped"] = lambda: trainer_rate(
            model, rows, theirs, GROUP, GROUP, train_sampling_strategy="group_by_length"
        )
    elif name not in AGAINST_PEAK:
        bucketed = bucketed_rates(gpt_neo(case, len(tokenizer)), data, index, batches)
        peers["transformers GPTNeo bucketed"] = lambda: bucketed(case["steps"])
    rates: dict[str, list[float]] = {"ours": [], "peak": [], **{peer: [] for peer in peers}}
    for repeat in range(repeats):
        rates["ours"].append(ours.rate(case["steps"]))
        for peer, rate in peers.items():
            rates[peer].append(rate())
        if name in AGAINST_PEAK:
            rates["peak"].append(matmul_peak(torch.device("cpu"), torch.float32, PEAK_SIZES) / flops_per_token)
        print(name, repeat, {key: round(found[-1]) for key, found in rates.items() if found}, flush=True)
    settings = {
        "knobs": cell.knobs,
        "precision": "fp32",
        "threads": 1,
        "batch_tokens": batch_tokens,
        "molecules_per_step": round(len(lengths) / batches.steps_in(1), 2),
    }
    what = f"train chemgpt {name}"
    targets = {"transformers Trainer": 2.8, "transformers Trainer grouped": 1.15, "transformers GPTNeo bucketed": 1.5}
    found = [
        timed_row(
            what,
            "chemicals",
            peer,
            rates["ours"],
            rates[peer],
            unit="tokens/s",
            target=targets[peer],
            settings=settings,
        )
        for peer in peers
    ]
    if name in AGAINST_PEAK:
        peak = timed_row(
            what,
            "chemicals",
            "matmul peak",
            rates["ours"],
            rates["peak"],
            unit="tokens/s",
            target=AGAINST_PEAK[name],
            settings=settings,
        )
        found.append(peak)
    write_rows("language.json", found)


def run_start(repeats: int, data_dir: Path, root: Path) -> None:
    cell = language_cell(CASES["w16"], CASES["w16"]["tokens"])
    seconds = [first_step(cell, root / str(repeat), data_dir) for repeat in range(repeats)]
    row = timed_row(
        "start chemgpt w16", "chemicals", None, seconds, None, unit="s", target=5.0, settings={"threads": 1}
    )
    write_rows("language.json", [row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=[*CASES, "start"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        data_dir, root = Path(scratch) / "data", Path(scratch) / "results"
        data = prepare(data_dir)
        for name in options.cases:
            if name == "start":
                run_start(options.repeats, data_dir, root / name)
            else:
                run_case(name, options.repeats, data, data_dir, root / name)


if __name__ == "__main__":
    main()
