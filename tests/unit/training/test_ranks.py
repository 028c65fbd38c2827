"""Several ranks train a cell as one would: the same order of data, the same losses, and no rank left behind."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import selfies

from chemscale.io import sha256_file
from chemscale.training import launch

ROOT = Path(__file__).parents[3]
FIFTY = {"kind": "equal_steps", "steps": 50}
SPLITS = ("test", "validation", "train", "train")


def _command(cell, root, data_dir, code="code"):
    job = {"cell": cell.to_dict(), "root": str(root), "data_dir": str(data_dir), "code": code}
    return [sys.executable, "-m", "chemscale.training.launch", json.dumps(job | {"log_file": str(root / "cell.log")})]


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
def molecules_dir(make_cell, tmp_path_factory, write_data):
    """A data folder with real molecules: ranks get unequal numbers of tokens, of a long molecule's batch one none."""
    with open(ROOT / "tests" / "data" / "smoke_molecules.csv") as stream:
        smiles = [row["smiles"] for row in csv.DictReader(stream)][:120]
    rows = [
        {"smiles": text, "selfies": selfies.encoder(text), "group": str(i), "split": SPLITS[i % len(SPLITS)]}
        for i, text in enumerate(smiles)
    ]
    root = tmp_path_factory.mktemp("molecules")
    write_data(root / make_cell().data["key"], rows, draws=[(0, 30)])
    return root


@pytest.fixture(scope="module")
def alone(make_cell, molecules_dir, tmp_path_factory):
    """The curve of a cell that one process trains."""
    cell = make_cell(learning_rate=1e-3, protocol=FIFTY)
    return _curve(_train(cell, tmp_path_factory.mktemp("alone"), molecules_dir))


@pytest.mark.parametrize(
    ("ranks", "micro_tokens", "zero"), [(1, 24, 0), (2, None, 0), (2, 16, 0), (2, 16, 1), (2, None, 2), (2, 16, 3)]
)
def test_a_spread_step_is_the_same_step(make_cell, molecules_dir, tmp_path, alone, ranks, micro_tokens, zero):
    cell = _spread(make_cell, ranks, micro_tokens, zero, learning_rate=1e-3, protocol=FIFTY)
    spread = _curve(_train(cell, tmp_path / "spread", molecules_dir))
    assert spread["tokens_seen"].tolist() == alone["tokens_seen"].tolist()
    np.testing.assert_allclose(spread["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(spread["val_loss"], alone["val_loss"], rtol=1e-5)
    assert ranks == 1 or spread["loss"].tolist() != alone["loss"].tolist()


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_bf16_follows_fp32_as_far_as_it_goes(make_cell, molecules_dir, tmp_path, alone, ranks, zero):
    cell = _spread(make_cell, ranks, 32, zero, learning_rate=1e-3, precision="bf16", protocol=FIFTY)
    rounded = _curve(_train(cell, tmp_path / "rounded", molecules_dir))
    np.testing.assert_allclose(rounded["loss"], alone["loss"], rtol=1e-2)
    np.testing.assert_allclose(rounded["val_loss"], alone["val_loss"], rtol=1e-2)
    assert np.abs(rounded["loss"] / alone["loss"] - 1).max() > 1e-4


def test_two_ranks_give_the_same_bits_each_time(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None)
    folders = [_train(cell, tmp_path / name, data_dir) for name in ("first", "second")]
    for name in ("metrics.json", "metrics.jsonl", "test_clusters.parquet", "checkpoint/weights.safetensors"):
        assert sha256_file(folders[0] / name) == sha256_file(folders[1] / name)


def test_a_potentials_step_is_the_same_on_three_ranks(make_cell, data_dir, tmp_path):
    """An epoch's last batch has two frames: one of the ranks has none of them."""
    cell = make_cell("potentials", learning_rate=1e-3, protocol={"kind": "fixed_epochs", "epochs": 3})
    curves = []
    for ranks in (1, 3):
        cell.engine["ranks"] = ranks
        folder = _train(cell, tmp_path / str(ranks), data_dir)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        curves.append([[line[key] for line in lines if key in line] for key in ("loss", "val_loss", "frames_seen")])
        assert json.loads((folder / "metrics.json").read_text())["flops_full"] == lines[-2]["flops_full"]
    assert curves[0][2] == curves[1][2]
    assert curves[0][0] != curves[1][0]
    np.testing.assert_allclose(curves[1][0], curves[0][0], rtol=1e-5)
    np.testing.assert_allclose(curves[1][1], curves[0][1], rtol=1e-5)


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stopped(make_cell, molecules_dir, tmp_path_factory):
    """A function that gives the folder of a run of two ranks under a stage of ZeRO that a signal stopped, and when."""

    @cache
    def stop(zero):
        cell = _spread(make_cell, 2, None, zero, learning_rate=1e-3, protocol=FIFTY)
        cell.engine["checkpoint_seconds"] = 0.001
        root = tmp_path_factory.mktemp("stopped")
        checkpoint = cell.folder(root) / "checkpoint"
        with subprocess.Popen(
            _command(cell, root, molecules_dir), env=_environment(), stderr=subprocess.PIPE
        ) as process:
            _until(lambda: any(checkpoint.glob("step-*/complete.json")))
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 75, said
        assert said.decode().count("stopped after step") == 1
        steps = max(int(marker.parent.name[5:]) for marker in checkpoint.glob("step-*/complete.json"))
        assert 0 < steps < 50
        return root, steps

    return stop


@pytest.mark.parametrize(("begun", "ranks", "zero"), [(0, 1, 0), (2, 1, 0), (2, 1, 2), (2, 2, 3), (3, 2, 1)])
def test_a_stopped_run_goes_on_by_other_ranks_and_stages(
    make_cell, molecules_dir, tmp_path, alone, stopped, begun, ranks, zero
):
    stopped_root, steps = stopped(begun)
    root = tmp_path / "continued"
    shutil.copytree(stopped_root, root)
    cell = _spread(make_cell, ranks, None, zero, learning_rate=1e-3, protocol=FIFTY)
    continued = _curve(_train(cell, root, molecules_dir))
    assert f"continues after step {steps}" in (root / "cell.log").read_text()
    assert continued["tokens_seen"].tolist() == alone["tokens_seen"].tolist()
    np.testing.assert_allclose(continued["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(continued["val_loss"], alone["val_loss"], rtol=1e-4)


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


def test_of_two_launchers_on_one_cell_one_trains_it(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None, learning_rate=1e-3)
    cell.protocol["steps"] = 1000
    both = [
        subprocess.Popen(
            _command(cell, tmp_path, data_dir), env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        _until(lambda: all(len(psutil.Process(process.pid).children()) == 2 for process in both))
        ranks = {process: psutil.Process(process.pid).children() for process in both}
        _until(lambda: any(process.poll() is not None for process in both))
        loser, winner = sorted(both, key=lambda process: process.poll() is None)
        assert winner.poll() is None
        _, said = loser.communicate()
        assert loser.returncode == 1, said
        assert said.decode().count("is being trained by another process") == 1
        assert "RuntimeError" not in said.decode()
        assert not any(rank.is_running() for rank in ranks[loser])
        assert all(rank.is_running() for rank in ranks[winner])
        out, said = winner.communicate(timeout=120)
        assert winner.returncode == 0, said
        assert out.decode().count("done") == 1
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert (cell.folder(tmp_path) / "metrics.json").exists()
    assert not (cell.folder(tmp_path) / "checkpoint" / "failure.json").exists()
    assert json.loads((cell.folder(tmp_path) / "provenance.json").read_text())["attempts"] == 1


def test_the_first_failure_counts(monkeypatch):
    for codes, expected in (([75, 75], 75), ([0, 75], 75), ([75, 1], 1), ([-9, 1], 1), ([1, -15], 1), ([0, 0], None)):
        monkeypatch.setattr(launch, "_start", lambda job, ranks, codes=codes: codes)
        if expected is None:
            launch.main({"engine": {"ranks": 2}})
            continue
        with pytest.raises(SystemExit) as ended:
            launch.main({"engine": {"ranks": 2}})
        assert ended.value.code == expected


def test_torchruns_ranks_give_the_bits_of_our_own(make_cell, data_dir, tmp_path):
    cell = _spread(make_cell, 2, None)
    ours = _train(cell, tmp_path / "ours", data_dir)
    root = tmp_path / "theirs"
    root.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, *torchrun, *_command(cell, root, data_dir)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("metrics.json", "metrics.jsonl", "checkpoint/weights.safetensors"):
        assert sha256_file(ours / name) == sha256_file(cell.folder(root) / name)
    cell.engine["ranks"] = 3
    refused = subprocess.run(
        [sys.executable, *torchrun, *_command(cell, root, data_dir)],
        env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "train with 2 ranks: found a cell whose engine names 3" in refused.stderr
