"""Time the training of the two largest ChemGPTs in bf16 on one GPU, against its own matrix products.

    python tests/benchmarks/train_accelerator.py [--repeats 5] [--cases w1024 w2048]

24 layers and 16 heads, on molecules of PubChem (the PyPI package chemicals), a cell's own training with its curve and
all bookkeeping. The share of the peak is 6 (N + V w) FLOPs a useful token against the best median over square bf16
products of 1,024 to 16,384 in the same run. By arithmetic, not yet by a run: under 60 GB of the GPU's memory, and 15 GB
of disk for a checkpoint. Writes rows to `results/benchmarks/language.json` and `memory.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from chemscale.cost.parameters import count
from chemscale.data.tokenizer import Tokenizer
from chemscale.training.meters import matmul_peak

sys.path.insert(0, str(Path(__file__).parent))
from language_cells import KEY, Ours, language_cell, prepare
from rows import timed_row, write_rows

CASES = {
    "w1024": {"layers": 24, "width": 1024, "heads": 16, "batch_tokens": 65_536, "micro_tokens": 32_768, "steps": 10},
    "w2048": {"layers": 24, "width": 2048, "heads": 16, "batch_tokens": 65_536, "micro_tokens": 16_384, "steps": 5},
}
PEAK_SIZES = (1024, 2048, 4096, 8192, 16384)


def run_case(name: str, repeats: int, data_dir: Path, root: Path) -> None:
    case = CASES[name]
    vocab_size = len(Tokenizer.load(data_dir / KEY / "tokenizer.json"))
    engine = {"device": "cuda", "micro_tokens": case["micro_tokens"], "checkpoint_seconds": 1e6}
    cell = language_cell(case, case["batch_tokens"], "bf16", **engine)
    ours = Ours(cell, root, data_dir)
    flops_per_token = 6 * (count("chemgpt", cell.knobs, vocab_size).non_embedding + vocab_size * case["width"])
    torch.cuda.reset_peak_memory_stats()
    rates, peaks = [], []
    for repeat in range(repeats):
        rates.append(ours.rate(case["steps"]))
        peaks.append(matmul_peak(torch.device("cuda"), torch.bfloat16, PEAK_SIZES) / flops_per_token)
        print(name, repeat, round(rates[-1]), "tokens/s,", round(rates[-1] / peaks[-1], 3), "of the peak", flush=True)
    settings = {"knobs": cell.knobs, "precision": "bf16", "device": torch.cuda.get_device_name(), **engine}
    what = f"train chemgpt {name} bf16"
    row = timed_row(what, "chemicals", "matmul peak", rates, peaks, unit="tokens/s", target=0.5, settings=settings)
    write_rows("language.json", [row])
    held = [torch.cuda.max_memory_allocated() / 1e9]
    write_rows(
        "memory.json", [timed_row(what, "chemicals", None, held, None, unit="GB", target=None, settings=settings)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use: this benchmark is of one")
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        prepare(data_dir)
        for name in options.cases:
            run_case(name, options.repeats, data_dir, Path(scratch) / "results")


if __name__ == "__main__":
    main()
