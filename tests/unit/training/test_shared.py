"""A run on more samples goes on from one on fewer: the same bits as alone, for fewer steps."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chemscale.errors import Stopped, TrainingError
from chemscale.io import read_json, sha256_file
from chemscale.training.checkpoint import Checkpoint
from chemscale.training.job import Datasets
from chemscale.training.run import main_pack, run_cell

LOG = logging.getLogger("test")
PACKAGE = Path(__file__).parents[3]
KEY = "toy-draw"
SAMPLES = (200, 400, 800)
FILES = ("metrics.json", "metrics.jsonl", "test_clusters.parquet", "checkpoint/weights.safetensors")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write_data, make_strings):
    """A data folder with 1,200 strings, 800 of them for training."""
    root = tmp_path_factory.mktemp("data")
    write_data(root / KEY, make_strings(1200), draws=[(0, num) for num in SAMPLES])
    return root


@pytest.fixture
def cells(make_cell):
    """Cells on 200, 400 and 800 molecules that begin alike."""
    cell = make_cell(
        protocol={"kind": "one_pass"}, schedule="stable_decay", warmup_steps=5, decay=0.4, batch_tokens=64, average=0.0
    )
    return [
        replace(
            cell,
            num_samples=num,
            data={"name": "toy", "key": KEY, "evaluations": {}},
            engine={**cell.engine, "shared_with": [other for other in SAMPLES if other != num]},
        )
        for num in SAMPLES
    ]


def _train(cell, root, data_dir, should_stop=lambda: False):
    run_cell(cell, root, Datasets(data_dir), "code", LOG, should_stop)
    return {name: sha256_file(cell.folder(root) / name) for name in FILES}


def _provenance(cell, root):
    return read_json(cell.folder(root) / "provenance.json")


@pytest.fixture
def alone(cells, data_dir, tmp_path):
    """The bits of each cell that makes all its steps itself."""
    return [_train(cell, tmp_path / str(cell.num_samples), data_dir) for cell in cells]


def test_cells_that_share_steps_have_the_bits_of_cells_alone(cells, alone, data_dir, tmp_path):
    root = tmp_path / "shared"
    assert [_train(cell, root, data_dir) for cell in cells] == alone
    told = [_provenance(cell, root) for cell in cells]
    assert told[0]["shared_steps"] == 0
    for before, cell, found in zip(told, cells[1:], told[1:], strict=False):
        curve = [json.loads(line) for line in (cell.folder(root) / "metrics.jsonl").read_text().splitlines()]
        assert found["shared_steps"] > before["shared_steps"]
        assert found["shared_flops"] == curve[found["shared_steps"] - 1]["flops_full"]
        assert 0 < found["shared_s"] < found["wall_s"]
        # the shared steps are at the peak, the last ones of a run are not
        assert {line["learning_rate"] for line in curve[5 : found["shared_steps"]]} == {0.01}
        assert curve[-2]["learning_rate"] < 0.01
        assert [line for line in curve[: found["shared_steps"]] if "val_loss" in line] == []
    # states are there for runs to come, of which there are none
    assert not (root / cells[0].shared_path).exists()


def test_a_larger_cell_trains_before_or_without_a_smaller_one(cells, alone, data_dir, tmp_path):
    root = tmp_path / "shared"
    for place in (2, 0, 1):
        assert _train(cells[place], root, data_dir) == alone[place]
    assert [_provenance(cell, root)["shared_steps"] > 0 for cell in cells] == [False, True, False]
    assert not (root / cells[0].shared_path).exists()


def test_an_interrupted_cell_goes_on_from_what_is_shared(cells, alone, data_dir, tmp_path):
    root = tmp_path / "shared"
    _train(cells[0], root, data_dir)
    begun = int(next((root / cells[0].shared_path).glob("shared-*")).name.removeprefix("shared-"))
    asked = iter([False] * 3 + [True])
    with pytest.raises(Stopped, match=f"after step {begun + 4}"):
        _train(cells[1], root, data_dir, lambda: next(asked))
    # on from its own state, and past the step after which it leaves one for others
    asked = iter([False] * 40 + [True])
    with pytest.raises(Stopped):
        _train(cells[1], root, data_dir, lambda: next(asked))
    assert len(list((root / cells[1].shared_path).glob("shared-*"))) == 2
    # a run that lost its own states has what it left for others
    Checkpoint(cells[1].folder(root) / "checkpoint", {}, LOG).drop_states("step")
    assert _train(cells[1], root, data_dir) == alone[1]
    assert _provenance(cells[1], root)["shared_steps"] == begun


@pytest.mark.parametrize("harm", ["tensors", "curve", "other code", "held"])
def test_states_that_cannot_be_had_are_done_without(cells, alone, data_dir, tmp_path, harm):
    root = tmp_path / "shared"
    code = "other code" if harm == "other code" else "code"
    run_cell(cells[0], root, Datasets(data_dir), code, LOG, lambda: False)
    shared = Checkpoint(root / cells[0].shared_path, {}, LOG)
    (state,) = shared.folder.glob("shared-*")
    if harm == "tensors":
        (state / "state-00000.safetensors").write_bytes(b"torn")
    if harm == "curve":
        shared.curve.write_text(shared.curve.read_text()[:300])
    if harm == "held":
        with shared.lock():
            assert _train(cells[1], root, data_dir) == alone[1]
    else:
        assert _train(cells[1], root, data_dir) == alone[1]
    assert _provenance(cells[1], root)["shared_steps"] == 0


def test_ranks_go_on_together(cells, data_dir, tmp_path):
    cells = [replace(cell, engine={**cell.engine, "ranks": 2, "zero": 2}) for cell in cells[:2]]

    def train(cell, root):
        job = {"cell": cell.to_dict(), "root": str(root), "data_dir": str(data_dir), "code": "code"}
        job["log_file"] = str(tmp_path / "cell.log")
        command = [sys.executable, "-m", "chemscale.training.launch", json.dumps(job)]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}, check=True)
        return {name: sha256_file(cell.folder(root) / name) for name in FILES}

    alone = train(cells[1], tmp_path / "alone")
    train(cells[0], tmp_path / "shared")
    assert train(cells[1], tmp_path / "shared") == alone
    assert _provenance(cells[1], tmp_path / "shared")["shared_steps"] > 0


def test_a_failed_cell_leaves_those_that_share_its_steps_be(cells, alone, data_dir, tmp_path, monkeypatch):
    root = tmp_path / "shared"
    marker = tmp_path / "pack.json"

    def failing(job, attempts):
        raise TrainingError("a cell", "bad luck", "try again")

    from chemscale.training import lm

    train = lm.train
    monkeypatch.setattr(lm, "train", lambda job, n: (failing if job.cell.num_samples == 400 else train)(job, n))
    main_pack(
        [cell.to_dict() for cell in cells],
        str(root),
        str(data_dir),
        {"chemgpt": "code"},
        str(marker),
        str(tmp_path / "pack.log"),
    )
    assert list(read_json(marker)["failed"]) == [cells[1].path]
    largest = cells[2].folder(root) / "checkpoint"
    assert sha256_file(largest / "weights.safetensors") == alone[2]["checkpoint/weights.safetensors"]
    assert read_json(largest / "finished" / "provenance.json")["shared_steps"] > 0
