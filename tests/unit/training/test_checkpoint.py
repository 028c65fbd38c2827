"""State is whole or not there, of this identity or set aside; a lock has one holder."""

import json
import logging

import pytest
import torch

from chemscale.errors import LockedError, TrainingError
from chemscale.training.checkpoint import Checkpoint, record_failure
from chemscale.training.metrics import Curve, whole_lines

LOG = logging.getLogger("test")
IDENTITY = {"config": "a", "data": "b", "code": "c"}


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "checkpoint", IDENTITY, LOG)


def test_newest_whole_state_is_continued(checkpoint):
    for step in (1, 2, 3):
        checkpoint.save(
            "step", step, [{"w": torch.full((2,), float(step))}, {"v": torch.zeros(1)}], {"progress": {"step": step}}
        )
    assert len(list(checkpoint.folder.glob("step-*"))) == 2
    damaged = checkpoint.folder / "step-000000003" / "state-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert checkpoint.newest("step") == 2
    parts, state = checkpoint.load("step", 2)
    assert state["step"] == 2
    first, second = parts
    assert torch.equal(first["w"], torch.tensor([2.0, 2.0]))
    assert second.keys() == {"v"}


def test_state_without_its_marker_is_not_whole(checkpoint):
    checkpoint.save("step", 5, [{"w": torch.zeros(1)}], {})
    (checkpoint.folder / "step-000000005" / "complete.json").unlink()
    assert checkpoint.newest("step") is None


def test_states_of_later_steps_can_be_dropped(checkpoint):
    for step in (5, 9, 11):
        checkpoint.save("step", step, [{"w": torch.zeros(1)}], {})
    checkpoint.drop_states("step", after=9)
    assert [state.name for state in checkpoint.folder.glob("step-*")] == ["step-000000009"]
    checkpoint.drop_states("step")
    assert not list(checkpoint.folder.glob("step-*"))


@pytest.mark.parametrize("field", IDENTITY)
def test_state_of_another_digest_is_set_aside_and_named(checkpoint, field, caplog):
    checkpoint.save("step", 5, [{"w": torch.zeros(1)}], {})
    other = Checkpoint(checkpoint.folder, IDENTITY | {field: "new"}, LOG)
    with caplog.at_level(logging.WARNING):
        assert other.newest("step") is None
    assert f"another {field}" in caplog.text
    assert list((checkpoint.folder / "superseded").glob("*/step-000000005/state.json"))
    assert not list(checkpoint.folder.glob("step-*"))


def test_finished_records_are_published_only_whole(checkpoint, tmp_path):
    checkpoint.finished_folder.mkdir()
    (checkpoint.finished_folder / "metrics.json").write_text("{}")
    assert not checkpoint.finished()
    checkpoint.finished_folder.mkdir()
    (checkpoint.finished_folder / "metrics.json").write_text("{}")
    checkpoint.mark_finished()
    assert checkpoint.finished()
    checkpoint.publish(tmp_path / "cell")
    assert (tmp_path / "cell" / "metrics.json").read_text() == "{}"
    (checkpoint.finished_folder / "metrics.json").write_text("{ }")
    assert not checkpoint.finished()


def test_two_holders_of_a_cell_are_refused(checkpoint):
    second = Checkpoint(checkpoint.folder, IDENTITY, LOG)
    with checkpoint.lock(), pytest.raises(LockedError, match="another process"), second.lock():
        pass
    with checkpoint.lock():
        pass


def test_failure_leaves_its_reason_until_the_next_attempt(checkpoint):
    assert checkpoint.start_attempt() == 1
    record_failure(checkpoint.folder, TrainingError("loss is nan"))
    failure = json.loads((checkpoint.folder / "failure.json").read_text())
    assert failure["reason"] == "TrainingError: loss is nan"
    assert failure["attempts"] == 1
    (checkpoint.folder / ".weights.safetensors.x1.part").touch()
    (checkpoint.folder / ".tmpA1b2C3").touch()
    assert checkpoint.start_attempt() == 2
    assert [path.name for path in checkpoint.folder.iterdir()] == ["attempts.json"]


def test_curve_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "curve.jsonl"
    curve = Curve(path, 0)
    for step in range(1, 6):
        curve.write(step=step, loss=1.0 / step)
    curve.close()
    curve = Curve(path, 3)
    curve.write(step=4, loss=9.0)
    curve.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 9.0


def test_a_torn_curve_is_continued_only_where_every_step_is_there(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.9}\n{"step": 2, "val_loss": 1.0}\n{"step": 3, "lo')
    assert len(whole_lines(path, 2)) == 3
    assert whole_lines(path, 3) == []
    Curve(path, 2).close()
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["12", "[]", '{"step": "2"}', '{"step": 2, "step": 2}', '{"step": 2, "loss": NaN}'])
def test_a_curve_ends_at_a_line_that_is_none_of_a_curve(tmp_path, line):
    path = tmp_path / "curve.jsonl"
    path.write_text(f'{{"step": 1, "loss": 1.0}}\n{line}\n{{"step": 2, "loss": 1.0}}\n')
    assert len(whole_lines(path, 1)) == 1
    assert whole_lines(path, 2) == []


def test_loss_that_is_not_finite_ends_the_run(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl", 0)
    with pytest.raises(TrainingError, match=r"loss is not finite \(nan\) at step 7"):
        curve.write(step=7, loss=float("nan"))
