"""What `make run` measures, records and prints."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import run_study

from chemscale.io import write_json
from chemscale.study import load_study

if TYPE_CHECKING:
    from conftest import Tree


def test_peak_memory_counts_descendants() -> None:
    held = 300_000_000
    code = f"import time; block = b'x' * {held}; time.sleep(1.0)"
    with run_study.peak_memory(interval=0.05) as without:
        time.sleep(0.2)
    with run_study.peak_memory(interval=0.05) as peak:
        # a child of a child: the workflow's jobs are grandchildren
        command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        subprocess.run([sys.executable, "-c", command], check=True)
    assert held < peak[0] - without[0] < 1.3 * held


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = Path("config.yaml").resolve().read_text()
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_record_replaces_its_own_rows_and_keeps_others(workplace: Path) -> None:
    study = load_study("config.yaml")
    run_study.record(study, 2, 700.0, 2_000_000_000)
    rows = json.loads(run_study.BENCHMARK.read_text())
    write_json(run_study.BENCHMARK, [*rows, {"what": "make run", "case": "another"}])
    run_study.record(study, 2, 650.04, 1_900_000_000)
    rows = json.loads(run_study.BENCHMARK.read_text())
    assert [(row["what"], row["case"]) for row in rows] == [
        ("make run", "another"),
        ("make run", "quickstart"),
        ("make run peak memory", "quickstart"),
    ]
    keys = "what case peer ours theirs unit ratio ratio_min ratio_max target repeats settings machine versions"
    assert set(rows[1]) == set(keys.split())
    assert (rows[1]["ours"], rows[1]["unit"]) == (650.0, "s")
    assert (rows[2]["ours"], rows[2]["unit"]) == (1.9, "GB")
    assert rows[1]["peer"] is rows[1]["ratio"] is None


def test_a_run_with_anything_done_is_not_from_nothing(workplace: Path) -> None:
    study = load_study("config.yaml")
    assert run_study.from_nothing(study)
    manifest = study.data_folder("molecules") / "manifest.json"
    write_json(manifest, {})
    assert not run_study.from_nothing(study)
    manifest.unlink()
    write_json(study.controls[0].folder(study.root) / "metrics.json", {})
    assert not run_study.from_nothing(study)


def test_locks_of_a_run_that_was_killed_are_taken_away(workplace: Path) -> None:
    lock = run_study.LOCKS / "0.output.lock"
    lock.parent.mkdir(parents=True)

    def after(record: dict[str, object] | None) -> bool:
        """Whether a lock is still there when a run begins after one that left this record."""
        lock.write_text("results/a")
        run_study.RECORD.unlink(missing_ok=True)
        if record is not None:
            write_json(run_study.RECORD, record)
        with run_study.at_work():
            assert json.loads(run_study.RECORD.read_text()) == {"host": platform.node(), "pid": os.getpid()}
        assert not run_study.RECORD.exists()
        return lock.exists()

    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    assert not after({"host": platform.node(), "pid": gone.pid})
    assert after({"host": "another machine", "pid": gone.pid})
    assert after(None), "of a Snakemake that was started by hand"
    # its run was killed, but its Snakemake is alive
    waiting = [sys.executable, "-c", "import time; time.sleep(60)", "snakemake"]
    with subprocess.Popen(waiting) as alive:
        assert after({"host": platform.node(), "pid": gone.pid})
        alive.kill()


@pytest.mark.parametrize(
    ("word", "stops"),
    [
        ("chemscale.training.launch", True),
        ("/tmp/x/tmpab.train_pack.py", True),
        ("/tmp/x/tmpab.simulate.py", True),
        ("/tmp/x/tmpab.fits.py", False),
        ("python -m chemscale.training.launch '{}'", False),  # its shell, which would end before it
    ],
)
def test_cells_and_stages_that_can_go_on_are_stopped(word: str, stops: bool) -> None:
    assert bool(run_study.STOPPABLE.search(word)) == stops


@pytest.mark.slow
def test_the_smoke_study_ends_with_its_report_and_verdict(smoke_tree: Tree) -> None:
    printed = (smoke_tree.path / "output.txt").read_text()
    study = load_study(smoke_tree.path / "tests/smoke.yaml")
    for cell in study.cells + study.controls:
        assert f"done {cell.path}: test loss" in printed
    assert "report: results/smoke/report/index.html" in printed
    assert printed.rstrip().endswith("audit: ok")
    rows = json.loads((smoke_tree.path / "results/benchmarks/workflow.json").read_text())
    assert {row["case"] for row in rows} >= {"smoke"}


@pytest.mark.slow
def test_a_signal_stops_the_cells_with_their_checkpoints(tree: Tree) -> None:
    config = (tree.path / "tests/smoke.yaml").read_text().replace("steps: 60}", "steps: 20000}")
    (tree.path / "long.yaml").write_text(config)
    command = [sys.executable, "workflow/run_study.py", "--configfile", "long.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(tree.path)}
    with subprocess.Popen(command, cwd=tree.path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        root = tree.path / "results/smoke/cells/chemgpt"
        deadline = time.monotonic() + 120
        # a cell of chemgpt is in its loop: it would take minutes
        while not any(root.glob("*/*/*/checkpoint/curve.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 75
    states = list(root.glob("*/*/*/checkpoint/step-*/complete.json"))
    assert states
    assert not list((tree.path / "results").rglob("failure.json"))
    assert not (tree.path / ".snakemake/locks").exists() or not list((tree.path / ".snakemake/locks").iterdir())


@pytest.mark.slow
def test_a_second_run_does_nothing_anew(finished: Tree) -> None:
    before = (finished.path / "results/benchmarks/workflow.json").read_bytes()
    done = finished.run("workflow/run_study.py", "--configfile", "tests/smoke.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "started" not in done.stdout
    assert "done cells" not in done.stdout
    assert done.stdout.rstrip().endswith("audit: ok")
    assert (finished.path / "results/benchmarks/workflow.json").read_bytes() == before
