"""Kill a running cell at random moments and hold its records to those of an undisturbed run, bit for bit.

    python tests/benchmarks/kills.py [--cases alone ranks] [--random 20] [--seed 0]

Each trial is a run from scratch on real molecules that is killed (`kill -9`) and started again until it is done:
`random` trials are killed once, at a moment drawn over the whole run, its start and its end included; others at the
sight of a file that is being written, so that kills fall inside the writes of checkpoints and of records; two are
killed four times in a row. The
case `ranks` is a cell of two ranks with ZeRO-2, of which every other kill meets one rank and the others the launcher:
then all its processes have to end by themselves, and the lock is free for the next start.

A table says for each kill what the run was doing, told by what lay there afterwards. Exits with 1 where a file differs
from the undisturbed run's, is missing or left over, where a process outlives its launcher, or where a start fails.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from chemscale.grid import Cell
from chemscale.io import sha256_file

sys.path.insert(0, str(Path(__file__).parent))
from cells import SCRATCH, changed, prepared, start

# an undisturbed run of each case takes ten to fifteen seconds, a good part of them in writes of checkpoints
CASES = {
    "alone": {"steps": 500, "checkpoint_seconds": 0.04},
    "ranks": {"steps": 80, "checkpoint_seconds": 0.2, "ranks": 2, "zero": 2},
}
# files whose sight is a moment, and what is done then; relative to `checkpoint/`
SIGHTS = (
    "step-*/.state-*.part",
    "step-*/.state.json.*.part",
    "step-*/.complete.json.*.part",
    ".weights.safetensors.*.part",
    "finished/.metrics.json.*.part",
    "finished/complete.json",
    "../.*.part",
)
# files that tell of the attempts themselves
VARYING = {"provenance.json", "attempts.json", "complete.json"}
START = 0.1  # the share of random moments that fall into a start
STARTING, BETWEEN = 4.0, 0.5  # seconds over which kills spread, of a start and after a checkpoint
PATIENCE = 120.0  # seconds for a killed run's processes to end; a rank gets a minute for it


@dataclass(frozen=True)
class Kill:
    """A moment, and whom it meets: seconds after a checkpoint of so many steps, then the sight of a file, if any.

    The load of the machine decides how long a start takes, and so steps, not seconds, say where a run is.
    """

    step: int  # 0: the start
    seconds: float
    sight: str | None
    rank: int | None  # None: the process that was started


@dataclass(frozen=True)
class Death:
    """What a kill met, and the seconds until all processes of the run had ended."""

    whom: str
    after: float
    doing: str
    ending: float
    outlived: bool

    def __str__(self) -> str:
        return f"{self.after:.1f} s {self.doing} ({self.whom})"


def seen(folder: Path, sight: str) -> bool:
    """Whether a file of this pattern is there."""
    try:
        return any(folder.glob(sight))
    except FileNotFoundError:  # a folder went away while it was looked through
        return False


def killed(cell: Cell, root: Path, kill: Kill) -> Death | None:
    """Start a cell's job and kill it; None where it had ended before."""
    folder = cell.folder(root) / "checkpoint"
    before = stamps(cell.folder(root))
    begun, reached = time.monotonic(), None
    process = start(cell, root)
    while process.poll() is None:
        now = time.monotonic()
        if reached is None and reaches(folder, kill.step):
            reached = now
        late = reached is not None and now - reached >= kill.seconds
        if late and (kill.sight is None or seen(folder, kill.sight)):
            break
        time.sleep(0.0005 if late else 0.01)
    else:
        return None
    after = time.monotonic() - begun
    team = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    place = 0 if kill.rank is None else 1 + kill.rank
    if place >= len(team):
        place = 0  # a launcher that has not started its ranks is met itself
    team[place].kill()
    _, alive = psutil.wait_procs(team, timeout=PATIENCE)
    ending = time.monotonic() - begun - after
    for left in alive:
        left.kill()
    process.wait()
    return Death(
        "a rank" if place else "the started process", after, doing(cell.folder(root), before), ending, bool(alive)
    )


def reaches(checkpoint: Path, step: int) -> bool:
    """Whether a run has written a checkpoint of at least so many steps, or is past the last one."""
    steps = [int(state.name.removeprefix("step-")) for state in checkpoint.glob("step-*")]
    return max(steps, default=0) >= step or (checkpoint / "finished").exists()


def stamps(folder: Path) -> dict[Path, int]:
    """The time of the last change of everything in a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")} if folder.exists() else {}


def doing(folder: Path, before: dict[Path, int]) -> str:
    """What a run was doing when it died, by what it changed since `before`."""
    now = stamps(folder)
    new = {path.relative_to(folder).as_posix() for path, stamp in now.items() if before.get(path) != stamp}
    states = sorted(name for name in new if name.startswith("checkpoint/step-") and name.count("/") == 1)
    if "checkpoint/finished/complete.json" in new or any("/" not in name for name in new - {"checkpoint"}):
        return "publishing"
    if any(name.startswith(("checkpoint/finished", "checkpoint/weights", "checkpoint/.weights")) for name in new):
        return "finishing"
    if states and not (folder / states[-1] / "complete.json").exists():
        return "writing a checkpoint"
    if any(not (folder / state / "complete.json").exists() for state in states[:-1]):
        return "dropping a checkpoint"
    return "training" if "checkpoint/curve.jsonl" in new else "starting"


def content(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a cell, of those that tell of the attempts the name alone."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): "" if path.name in VARYING else sha256_file(path) for path in sorted(files)
    }


def whole(cell: Cell, root: Path) -> float:
    """Run a cell to its end; the seconds that it took."""
    begun = time.monotonic()
    code = start(cell, root).wait()
    if code:
        sys.exit(f"a start ended with {code}; see {root / 'said'}")
    return time.monotonic() - begun


class Campaign:
    """The trials of a case, each held to its undisturbed run."""

    def __init__(self, case: str, cell: Cell, draw: random.Random) -> None:
        self.case, self.cell, self._draw = case, cell, draw
        self.broken: list[str] = []
        self._deaths: list[Death] = []
        self._number = self._moments = 0
        self._folder = SCRATCH / case
        shutil.rmtree(self._folder, ignore_errors=True)
        roots = [self._folder / name for name in ("undisturbed", "again")]
        wall = min(whole(cell, root) for root in roots)
        self._expected, again = (content(cell.folder(root)) for root in roots)
        if again != self._expected:
            self.broken.append(f"{case}: two undisturbed runs differ")
        print(f"{case}: {cell.engine}, undisturbed {wall:.1f} s, {len(again)} files", flush=True)

    def run(self, random_ones: int) -> None:
        """All trials, and what they met, in a few lines."""
        while len(self._deaths) < random_ones:
            self._trial([self._moment(0, 1)])
        for sight in SIGHTS:
            self._trial([self._moment(START, 0.9, sight)])
        # four times in a row, inside writes and at whatever is met
        quarters = [(START, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9)]
        self._trial([self._moment(*quarter, SIGHTS[place % 3]) for place, quarter in enumerate(quarters)])
        self._trial([self._moment(*quarter) for quarter in quarters])
        counts = Counter(death.doing for death in self._deaths).most_common()
        print(f"{self.case}: {len(self._deaths)} kills: {', '.join(f'{count} {what}' for what, count in counts)}")
        for whom in ("the started process", "a rank"):
            some = [death for death in self._deaths if death.whom == whom]
            if some:
                last = max(death.ending for death in some)
                print(f"{self.case}: {len(some)} met {whom}: all processes had ended within {last:.2f} s")

    def _moment(self, least: float, most: float, sight: str | None = None) -> Kill:
        """A moment between two shares of the undisturbed run; of several ranks every other moment meets one."""
        self._moments += 1
        ranks = self.cell.engine["ranks"]
        rank = self._draw.randrange(ranks) if ranks > 1 and self._moments % 2 else None
        share = self._draw.uniform(least, most)
        step = int(share * self.cell.protocol["steps"]) if share >= START else 0
        return Kill(step, self._draw.uniform(0, BETWEEN if step else STARTING), sight, rank)

    def _trial(self, kills: list[Kill]) -> None:
        self._number += 1
        name = f"{self.case} {self._number}"
        root = self._folder / f"trial{self._number}"
        deaths = [death for death in (killed(self.cell, root, kill) for kill in kills) if death]
        whole(self.cell, root)
        found, expected = content(self.cell.folder(root)), self._expected
        differing = sorted(file for file in found | expected if found.get(file) != expected.get(file))
        told = ", ".join(map(str, deaths)) or "it had ended before"
        print(f"{name}: {told}: {', '.join(differing) or 'the same bits'}", flush=True)
        self.broken += [f"{name}: {file} differs, see {root}" for file in differing]
        self.broken += [f"{name}: a process outlived the others" for death in deaths if death.outlived]
        self._deaths += deaths
        if not differing:
            shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    (cell,) = prepared("w40", 2000)
    broken = []
    for case in options.cases:
        campaign = Campaign(case, changed(cell, **CASES[case]), random.Random(options.seed))
        campaign.run(options.random)
        broken += campaign.broken
    for promise in broken:
        print(f"broken: {promise}", file=sys.stderr)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
