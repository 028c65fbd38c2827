"""What a run says and asks before it trains finished cells again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from chemscale.errors import ConfigError
from chemscale.planning.retrain import VARIABLE, Retraining, confirm, set_aside

MUCH = Retraining(("cells/painn/w8/n8/seed0",), frozenset(), 4, 0.25, (("training.learning_rate: 1, now 2", 1),))
LITTLE = Retraining(("cells/painn/w8/n8/seed0",), frozenset(), 40, 0.02, (("the code of painn", 1),))
NOTHING = Retraining((), frozenset(), 40, 0.0, ())
CONFIG = Path("studies/mine.yaml")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_answer_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_nothing_to_train_again_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    confirm(NOTHING, CONFIG)
    assert capsys.readouterr().err == ""


def test_a_small_loss_is_told_and_not_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    confirm(LITTLE, CONFIG)
    printed = capsys.readouterr().err
    assert "1 of 40 finished cells would be trained again, 2 % of the work done" in printed
    assert "the code of painn (1 cell)" in printed


def test_a_large_loss_is_refused_without_a_terminal() -> None:
    with pytest.raises(ConfigError, match="CHEMSCALE_RETRAIN=yes") as refusal:
        confirm(MUCH, CONFIG)
    assert refusal.value.exit_code == 2
    assert "studies/mine.yaml" in str(refusal.value)


def test_the_variable_answers_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yes")
    confirm(MUCH, CONFIG)
    monkeypatch.setenv(VARIABLE, "no")
    with pytest.raises(ConfigError):
        confirm(MUCH, CONFIG)


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", printed := Terminal())
    if goes_on:
        confirm(MUCH, CONFIG)
    else:
        with pytest.raises(ConfigError):
            confirm(MUCH, CONFIG)
    assert "former/" in printed.getvalue()


def test_seeds_of_one_size_move_to_former_together(tmp_path: Path) -> None:
    cells = [f"cells/painn/w8/n8/seed{seed}" for seed in range(3)]
    for cell in cells:
        (tmp_path / cell).mkdir(parents=True)
        (tmp_path / cell / "metrics.json").write_text("{}")
    set_aside(tmp_path, Retraining(tuple(cells), frozenset(cells[2:]), 3, 1.0, ()))
    moved = sorted(path.parent.relative_to(tmp_path / "former") for path in tmp_path.glob("former/**/metrics.json"))
    assert [Path(*path.parts[1:]).as_posix() for path in moved] == cells[:2]
    assert not any((tmp_path / cell).exists() for cell in cells[:2])
    # its data may come out as they were
    assert (tmp_path / cells[2] / "metrics.json").exists()
