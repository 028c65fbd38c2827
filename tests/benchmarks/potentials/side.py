"""One side of a benchmark of potentials, in a process of its own: it sets up what it is told to, and times it.

The driver asks by a line of JSON and gets one: two sides with environments of their own take turns on one core.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# of both sides; the envelope of Allegro is the same polynomial in both codes, that of the others schnetpack's cosine
CUTOFF, RADIAL, WIDTH, INTERACTIONS = 5.0, 20, 64, 3
ALLEGRO = {"width": 64, "tensors": 32, "l_max": 2, "interactions": 2, "num_radial": 8, "neighbours": 12.0}
RATE = 1e-5

# sets up (what, model, tensors, setting): a call of no arguments that does one step or one prediction
SetUp = Callable[[str, str, dict[str, torch.Tensor], str], Callable[[], Any]]


def peak_bytes() -> int:
    """The most that this process had resident; ru_maxrss would begin with what its parent had when it started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def serve(set_up: SetUp) -> None:
    """Answer the driver until it has no more to ask."""
    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever libraries print
    work: Callable[[], Any] | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        before = time.monotonic()
        if "what" in asked:
            tensors = load_file(Path(asked["folder"]) / f"{asked['case']}.safetensors")
            work = set_up(asked["what"], asked["model"], tensors, asked["setting"])
            work()
            answer: Any = {"seconds": time.monotonic() - before}
        else:
            assert work is not None
            for _ in range(asked["times"]):
                work()
            answer = {"seconds": time.monotonic() - before, "peak_bytes": peak_bytes()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
