"""Several ranks train a cell as one would: the same order of data, the same losses, and no rank left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from chemscale.io import sha256_file
from chemscale.training import launch

ROOT = Path(__file__).parents[3]
PROGRAM = "import json, sys; from chemscale.training.launch import main; main(**json.loads(sys.argv[1]))"


def _command(cell, root, data_dir, code="code"):
    job = {"cell": cell.to_dict(), "root": str(root), "data_dir": str(data_dir), "code": code}
    return [sys.executable, "-c", PROGRAM, json.dumps(job | {"log_file": str(root / "cell.log")})]


def _environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _train(cell, root, data_dir):
    root.mkdir(exist_ok=True)
    done = subprocess.run(
        _command(cell, root, data_dir), env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return cell.folder(root)


def _curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {key: np.array([line[key] for line in lines if key in line]) for key in ("loss", "val_loss", "tokens_seen")}


def _spread(make_cell, ranks, micro_tokens, zero=0, **training):
    cell = make_cell(**training)
    cell.engine.update(ranks=ranks, micro_tokens=micro_tokens, zero=zero)
    return cell


@pytest.fixture(scope="module")
def alone(make_cell, data_dir, tmp_path_factory):
    """The curve of a cell that one process trains."""
    cell = make_cell(learning_rate=1e-3)
    return _curve(_train(cell, tmp_path_factory.mktemp("alone"), data_dir))


@pytest.mark.parametrize(
    ("ranks", "micro_tokens", "zero"), [(1, 24, 0), (2, None, 0), (2, 16, 0), (2, 16, 1), (2, None, 2), (2, 16, 3)]
)
def test_a_spread_step_is_the_same_step(make_cell, data_dir, tmp_path, alone, ranks, micro_tokens, zero):
    cell = _spread(make_cell, ranks, micro_tokens, zero, learning_rate=1e-3)
    spread = _curve(_train(cell, tmp_path / "spread", data_dir))
    assert spread["tokens_seen"].tolist() == alone["tokens_seen"].tolist()
    np.testing.assert_allclose(spread["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(spread["val_loss"], alone["val_loss"], rtol=1e-5)
    assert ranks == 1 or spread["loss"].tolist() != alone["loss"].tolist()


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_bf16_follows_fp32_as_far_as_it_goes(make_cell, data_dir, tmp_path, alone, ranks, zero):
    cell = _spread(make_cell, ranks, 32, zero, learning_rate=1e-3, precision="bf16")
    rounded = _curve(_train(cell, tmp_path / "rounded", data_dir))
    np.testing.assert_allclose(rounded["loss"], alone["loss"], rtol=1e-2)
    np.testing.assert_allclose(rounded["val_loss"], alone["val_loss"], rtol=1e-2)
    assert np.abs(rounded["loss"] / alone["loss"] - 1).max() > 1e-4


def test_two_ranks_give_the_same_bits_each_time(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None)
    folders = [_train(cell, tmp_path / name, data_dir) for name in ("first", "second")]
    for name in ("metrics.json", "metrics.jsonl", "test_clusters.parquet", "checkpoint/weights.safetensors"):
        assert sha256_file(folders[0] / name) == sha256_file(folders[1] / name)


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stopped_ranks_leave_a_checkpoint_that_one_rank_goes_on_from(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None, learning_rate=1e-3)
    cell.protocol["steps"] = 3000
    root = tmp_path / "stopped"
    root.mkdir()
    curve = cell.folder(root) / "checkpoint" / "curve.jsonl"
    with subprocess.Popen(_command(cell, root, data_dir), env=_environment(), stderr=subprocess.PIPE) as process:
        _until(lambda: curve.exists())
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    (state,) = (cell.folder(root) / "checkpoint").glob("step-*")
    steps = int(state.name[5:])
    assert 0 < steps < 3000
    cell.engine["ranks"] = 1
    with subprocess.Popen(_command(cell, root, data_dir), env=_environment()) as process:
        _until(lambda: len(curve.read_text().splitlines()) > steps + 30 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert "continues after step" in (root / "cell.log").read_text()
    alone = make_cell(learning_rate=1e-3, protocol=cell.protocol)
    whole = tmp_path / "whole"
    whole.mkdir()
    other = alone.folder(whole) / "checkpoint" / "curve.jsonl"
    with subprocess.Popen(_command(alone, whole, data_dir), env=_environment()) as process:
        _until(lambda: other.exists() and len(other.read_text().splitlines()) > steps + 30)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    resumed, expected = (
        [json.loads(line) for line in path.read_text().splitlines()[: steps + 30]] for path in (curve, other)
    )
    assert [line.get("tokens_seen") for line in resumed] == [line.get("tokens_seen") for line in expected]
    np.testing.assert_allclose([line["loss"] for line in resumed[:40] if "loss" in line],
                               [line["loss"] for line in expected[:40] if "loss" in line], rtol=1e-4)  # fmt: skip


def test_a_rank_that_is_killed_takes_the_cell_with_it_and_the_reason_is_kept(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None)
    cell.protocol["steps"] = 100_000
    curve = cell.folder(tmp_path) / "checkpoint" / "curve.jsonl"
    with subprocess.Popen(_command(cell, tmp_path, data_dir), env=_environment(), stderr=subprocess.PIPE) as process:
        _until(lambda: curve.exists())
        psutil.Process(process.pid).children()[1].kill()
        assert process.wait(60) == 1
    assert "RuntimeError" in json.loads((cell.folder(tmp_path) / "checkpoint" / "failure.json").read_text())["reason"]


def test_ranks_end_with_their_launcher(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None)
    cell.protocol["steps"] = 100_000
    curve = cell.folder(tmp_path) / "checkpoint" / "curve.jsonl"
    with subprocess.Popen(_command(cell, tmp_path, data_dir), env=_environment(), stderr=subprocess.PIPE) as process:
        _until(lambda: curve.exists())
        ranks = psutil.Process(process.pid).children()
        process.kill()
    assert len(ranks) == 2
    _until(lambda: not any(rank.is_running() for rank in ranks))


def test_the_first_failure_counts(monkeypatch):
    for codes, expected in (([75, 75], 75), ([0, 75], 75), ([75, 1], 1), ([-9, 1], 1), ([1, -15], 1), ([0, 0], None)):
        monkeypatch.setattr(launch, "_start", lambda job, ranks, codes=codes: codes)
        if expected is None:
            launch.main({"engine": {"ranks": 2}})
            continue
        with pytest.raises(SystemExit) as ended:
            launch.main({"engine": {"ranks": 2}})
        assert ended.value.code == expected
