"""A cell's bits: alone or in company, interrupted or not, on a node that has nothing but torch and numpy."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chemscale.data.shards import stream
from chemscale.data.subsets import rows_digest, subset_keys
from chemscale.errors import DivergedError, Stopped, TrainingError
from chemscale.io import read_parquet, sha256_file
from chemscale.records import loss_spikes, read_metrics
from chemscale.training import job
from chemscale.training.job import Datasets
from chemscale.training.run import main, main_pack, run_cell

LOG = logging.getLogger("test")
FILES = ("metrics.json", "metrics.jsonl", "test_clusters.parquet", "config.json", "checkpoint/weights.safetensors")
ROOT = Path(__file__).parents[3]


def _never():
    return False


def _bits(folder):
    return {name: sha256_file(folder / name) for name in FILES}


def _train(cell, root, data_dir, should_stop=_never):
    run_cell(cell, root, Datasets(data_dir), "code", LOG, should_stop)
    return _bits(cell.folder(root))


def _subprocess(program, cell, root, data_dir):
    """Train a cell in a process of its own, with `program` run before the package is imported."""
    code = f"""
import json, logging, sys
{program}
from pathlib import Path
from chemscale.grid import Cell
from chemscale.training import job
from chemscale.training.job import Datasets
from chemscale.training.run import run_cell
cell = Cell.from_dict(json.loads({json.dumps(cell.to_dict())!r}))
run_cell(cell, Path({str(root)!r}), Datasets(Path({str(data_dir)!r})), "code", logging.getLogger("x"), lambda: False)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return _bits(cell.folder(root))


@pytest.mark.parametrize("domain", ["language", "potentials"])
def test_two_cells_in_one_process_give_the_bits_of_two_processes(make_cell, data_dir, tmp_path, domain):
    other = "potentials" if domain == "language" else "language"
    _train(make_cell(other), tmp_path / "together", data_dir)
    _train(make_cell(domain, seed=3), tmp_path / "together", data_dir)
    together = _train(make_cell(domain), tmp_path / "together", data_dir)
    assert together == _subprocess("", make_cell(domain), tmp_path / "alone", data_dir)


_TERMS = ("repulsion", "electrostatics", "dispersion")
_GRAPH = {"width": 4, "interactions": 2, "num_radial": 4}


@pytest.mark.parametrize(
    ("family", "knobs"),
    [
        ("allegro", {"cutoff": 4.0, "tensors": 2, "l_max": 2, "envelope": "smooth", "neighbours": 2.0}),
        # its neighbour lists reach to the larger of two cutoffs
        ("spookynet", {"cutoff": 3.0, "long_cutoff": 4.0} | dict.fromkeys(_TERMS, True)),
    ],
)
def test_trains_to_the_same_bits_in_another_process(make_cell, data_dir, tmp_path, family, knobs):
    cell = replace(make_cell("potentials"), family=family, knobs=_GRAPH | knobs)
    bits = _train(cell, tmp_path / "one", data_dir)
    assert bits == _subprocess("", cell, tmp_path / "other", data_dir)
    assert read_metrics(cell.folder(tmp_path / "one") / "metrics.json")["steps"] == 20


def test_trains_without_the_packages_that_a_compute_node_lacks(make_cell, data_dir, tmp_path):
    blocked = ("rdkit", "pandas", "pydantic", "selfies", "snakemake", "ase", "tblite", "scipy", "yaml", "rich", "typer")
    program = f"""
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
    for domain in ("language", "potentials"):
        _subprocess(program, make_cell(domain), tmp_path, data_dir)


@pytest.mark.parametrize("domain", ["language", "potentials"])
@pytest.mark.parametrize("stop_after", [1, 9, 20])
def test_interrupted_run_ends_with_the_same_bits(make_cell, data_dir, tmp_path, domain, stop_after):
    whole = _train(make_cell(domain), tmp_path / "whole", data_dir)
    asked = iter([False] * (stop_after - 1) + [True] + [False] * 100)
    with pytest.raises(Stopped, match=f"after step {stop_after}"):
        _train(make_cell(domain), tmp_path / "parted", data_dir, lambda: next(asked))
    assert not (make_cell(domain).folder(tmp_path / "parted") / "metrics.json").exists()
    assert _train(make_cell(domain), tmp_path / "parted", data_dir) == whole


# the tensors of a state, its marker, a cut curve, the weights, and the records in their first place and in their last
@pytest.mark.parametrize(
    "sights",
    [
        ["checkpoint/step-*/.state-*.part", "checkpoint/step-*/.complete.json.*.part", "checkpoint/.curve.*.part"],
        ["checkpoint/.weights.*.part", "checkpoint/finished/.*.part", ".*.part"],
    ],
)
def test_killed_run_ends_with_the_same_bits_and_leaves_nothing(make_cell, data_dir, tmp_path, sights):
    cell = make_cell(protocol={"kind": "equal_steps", "steps": 300})
    cell.engine["checkpoint_seconds"] = 0.03
    whole = _train(cell, tmp_path / "whole", data_dir)
    root = tmp_path / "killed"
    arguments = (cell.to_dict(), str(root), str(data_dir), "code", str(root / "cell.log"))
    program = f"from chemscale.training.run import main; main(*{arguments!r})"
    killed = 0
    for sight in sights:
        with subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        ) as process:
            while process.poll() is None and not _seen(cell.folder(root), sight):
                time.sleep(0.0002)
            process.kill()
        killed += process.returncode == -signal.SIGKILL
    assert killed
    assert _train(cell, root, data_dir) == whole
    names = [{path.name for path in cell.folder(tmp_path / run).rglob("*")} for run in ("whole", "killed")]
    assert names[0] == names[1]


def _seen(folder, sight):
    try:
        return any(folder.glob(sight))
    except FileNotFoundError:  # a folder went away while it was looked through
        return False


def test_states_that_never_became_whole_push_out_no_whole_one(make_cell, data_dir, tmp_path, caplog):
    cell = make_cell()
    checkpoint = cell.folder(tmp_path) / "checkpoint"
    asked = iter([False] * 8 + [True] + [False] * 2 + [True])
    with pytest.raises(Stopped, match="after step 9"):
        _train(cell, tmp_path, data_dir, lambda: next(asked))
    for step in (15, 17):
        (checkpoint / f"step-{step:09d}").mkdir()
    with pytest.raises(Stopped, match="after step 12"):
        _train(cell, tmp_path, data_dir, lambda: next(asked))
    with caplog.at_level(logging.INFO):
        _train(cell, tmp_path, data_dir)
    assert "continues after step 12" in caplog.text


def test_run_that_died_after_its_records_leaves_nothing_behind(make_cell, data_dir, tmp_path):
    cell = make_cell()
    before = _train(cell, tmp_path, data_dir)
    folder = cell.folder(tmp_path)
    (folder / "metrics.json").unlink()
    (folder / "checkpoint" / "step-000000020").mkdir()
    (folder / ".metrics.json.x1.part").touch()
    assert _train(cell, tmp_path, data_dir) == before
    assert not list(folder.rglob("step-*"))
    assert not list(folder.rglob("*.part"))


def test_records_say_what_was_trained_on(make_cell, data_dir, tmp_path):
    cell = make_cell()
    _train(cell, tmp_path, data_dir)
    metrics = read_metrics(cell.folder(tmp_path) / "metrics.json")
    rows = [row for part in stream(data_dir / cell.data["key"], ["row", "split", "tokens"]) for row in part.to_pylist()]
    training = {row["row"]: len(row["tokens"]) for row in rows if row["split"] == "train"}
    keys = dict(zip(training, subset_keys(list(training), cell.data["key"], 0), strict=True))
    chosen = sorted(training, key=keys.__getitem__)[:30]
    assert metrics["tokens_unique"] == sum(training[row] - 1 for row in chosen)
    assert metrics["subset_digest"] == rows_digest(chosen)
    assert metrics["flops_6n"] == 6 * metrics["num_params_non_embedding"] * metrics["tokens_seen"]
    clusters = read_parquet(cell.folder(tmp_path) / "test_clusters.parquet")
    ratio = sum(clusters["loss_sum"].to_pylist()) / sum(clusters["count"].to_pylist())
    assert metrics["test_loss"] == pytest.approx(ratio, rel=1e-12)
    curve = [json.loads(line) for line in (cell.folder(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    validations = {line["step"]: line["val_loss"] for line in curve if "val_loss" in line}
    assert metrics["val_loss"] == min(validations.values()) == validations[metrics["best_step"]]
    assert [line["step"] for line in curve if "loss" in line] == list(range(1, 21))
    provenance = json.loads((cell.folder(tmp_path) / "provenance.json").read_text())
    assert 0 < provenance["steps_s"] <= provenance["wall_s"]
    assert provenance["seen_per_s"] == pytest.approx(metrics["tokens_seen"] / provenance["steps_s"])
    assert 0 < provenance["flops_utilisation"] < 1
    assert (provenance["energy_kwh"] is None) == ("energy_kwh" in provenance["reasons"])


def test_changed_code_sets_the_checkpoint_aside(make_cell, data_dir, tmp_path):
    cell = make_cell()
    asked = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        _train(cell, tmp_path, data_dir, lambda: next(asked))
    run_cell(cell, tmp_path, Datasets(data_dir), "other code", LOG, _never)
    assert list((cell.folder(tmp_path) / "checkpoint" / "superseded").glob("*/step-*"))
    assert read_metrics(cell.folder(tmp_path) / "metrics.json")["code_digest"] == "other code"


def test_failed_cell_leaves_its_reason_and_the_pack_goes_on(make_cell, data_dir, tmp_path):
    bad, good = make_cell(seed=1, learning_rate=1e30, gradient_clip=1e30), make_cell()
    marker = tmp_path / "pack.json"
    main_pack(
        [bad.to_dict(), good.to_dict()], str(tmp_path), str(data_dir), {"chemgpt": "code"}, str(marker),
        str(tmp_path / "pack.log"),
    )  # fmt: skip
    assert list(json.loads(marker.read_text())["failed"]) == [bad.path]
    failure = json.loads((bad.folder(tmp_path) / "checkpoint" / "failure.json").read_text())
    assert "not finite" in failure["reason"]
    assert (good.folder(tmp_path) / "checkpoint" / "finished" / "metrics.json").exists()
    with pytest.raises(TrainingError):
        _train(bad, tmp_path, data_dir)
    assert json.loads((bad.folder(tmp_path) / "checkpoint" / "failure.json").read_text())["attempts"] == 2


@pytest.mark.parametrize("domain", ["language", "potentials"])
def test_a_run_that_diverges_goes_on_once_from_its_last_validation(make_cell, data_dir, tmp_path, monkeypatch, domain):
    explodes = {"at": 12}

    def rate(step, steps, settings):
        return 1e30 if step == explodes["at"] else 0.01

    monkeypatch.setattr(job, "learning_rate", rate)
    cell = make_cell(domain, retry_rate=1e-32, gradient_clip=1e30, validations=5)
    before = _train(cell, tmp_path / "whole", data_dir)
    folder = cell.folder(tmp_path / "whole")
    curve = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = read_metrics(folder / "metrics.json")
    taken_back = metrics["retried_from_step"]
    assert 0 < taken_back <= 12
    assert taken_back in [line["step"] for line in curve if "val_loss" in line]
    rates = [line["learning_rate"] for line in curve if "loss" in line]
    assert rates[:taken_back] == [0.01] * taken_back
    assert all(rate in (0.01 * 1e-32, 1e30 * 1e-32) for rate in rates[taken_back:])
    assert len(rates) == 20
    diverged = (folder / "checkpoint" / "diverged.jsonl").read_text()
    assert "nan" in diverged or "inf" in diverged
    # stopped again and again, the same bits
    for stop_after in (10, 12, 3, 2):
        asked = iter([False] * stop_after + [True])
        try:
            _train(cell, tmp_path / "parted", data_dir, lambda asked=asked: next(asked))
        except Stopped:
            continue
    assert _train(cell, tmp_path / "parted", data_dir) == before
    explodes["at"] = 0
    with pytest.raises(DivergedError):
        _train(make_cell(domain, retry_rate=0.5, gradient_clip=1e30), tmp_path / "again", data_dir)
    # before any validation there is nothing to go back to but the start
    early = make_cell(domain, retry_rate=1e-32, gradient_clip=1e30)
    _train(early, tmp_path / "early", data_dir)
    assert read_metrics(early.folder(tmp_path / "early") / "metrics.json")["retried_from_step"] == 0


def test_spikes_of_the_loss_are_counted():
    losses = [*np.linspace(3, 2, 60), 5.5, *[2.0] * 60, 3.9, 4.1]
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1)]
    lines.insert(70, json.dumps({"step": 69, "val_loss": 50.0}))
    assert loss_spikes(lines) == 2


def test_finished_records_are_published_without_training(make_cell, data_dir, tmp_path):
    cell = make_cell()
    before = _train(cell, tmp_path, data_dir)
    (cell.folder(tmp_path) / "metrics.json").unlink()
    assert run_cell(cell, tmp_path, Datasets(data_dir), "code", LOG, _never) is False
    assert _bits(cell.folder(tmp_path)) == before


def test_training_to_convergence_stops_when_validation_stops_falling(make_cell, data_dir, tmp_path):
    cell = make_cell(
        "potentials",
        protocol={"kind": "to_convergence", "steps": 400, "patience": 2},
        validations=12,
        learning_rate=0.05,
    )
    _train(cell, tmp_path, data_dir)
    metrics = read_metrics(cell.folder(tmp_path) / "metrics.json")
    assert metrics["best_step"] < metrics["steps"] < 400
    assert metrics["protocol"] == "to_convergence(2, 400)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_leaves_a_checkpoint_and_exits_75(make_cell, data_dir, tmp_path, number):
    cell = make_cell(protocol={"kind": "equal_steps", "steps": 10**6}, validations=1)
    arguments = (cell.to_dict(), str(tmp_path), str(data_dir), "code", str(tmp_path / "cell.log"))
    process = subprocess.Popen(
        [sys.executable, "-c", f"from chemscale.training.run import main; main(*{arguments!r})"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    curve = cell.folder(tmp_path) / "checkpoint" / "curve.jsonl"
    while process.poll() is None and not (curve.exists() and curve.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 75, message
    assert "checkpoint written" in message
    assert list((cell.folder(tmp_path) / "checkpoint").glob("step-*/complete.json"))
    assert not (cell.folder(tmp_path) / "metrics.json").exists()


def test_a_cell_without_its_data_says_so(make_cell, tmp_path):
    cell = make_cell()
    arguments = (cell.to_dict(), str(tmp_path), str(tmp_path / "nowhere"), "code", str(tmp_path / "cell.log"))
    with pytest.raises(SystemExit) as ended:
        main(*arguments)
    assert ended.value.code == 2
    failure = json.loads((cell.folder(tmp_path) / "checkpoint" / "failure.json").read_text())
    assert "no manifest.json" in failure["reason"]
