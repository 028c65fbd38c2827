"""Evaluations in the tables, in words and in figures of a study whose probe gets better with size."""

from __future__ import annotations

from pathlib import Path

from chemscale.io import read_parquet
from chemscale.reporting.evaluations import readings
from chemscale.reporting.results import load_results


def test_numbers_of_evaluated_cells_are_columns(planted: Path) -> None:
    cells, evaluation = (
        read_parquet(planted / "tables" / f"{name}.parquet").to_pandas() for name in ("cells", "evaluation")
    )
    with_probe = cells[cells["probe_gap_mae"].notna()]
    assert set(with_probe["size"]) == {"w8", "w16", "w40"}
    assert set(with_probe["num_samples"]) == {8000}
    for _, cell in with_probe.iterrows():
        rows = evaluation[evaluation["cell"] == cell["cell"]].set_index("entry")
        assert rows.loc[f"{cell['cell']}:probe:gap_mae:trained", "value"] == cell["probe_gap_mae"]
        assert rows.loc[f"{cell['cell']}:generation:uniqueness:model", "value"] == cell["generation_uniqueness"]
    assert evaluation["entry"].is_unique
    assert cells.loc[cells["family"] == "painn", "probe_gap_mae"].isna().all()


def test_words_follow_from_the_intervals(planted: Path) -> None:
    (family, *_) = load_results(planted).families
    first = readings(family)[0]
    # planted errors: 0.5, 0.25 and 0.1 beside 0.5, 0.4 and 1.0
    assert "instead of the untrained network's, better at some of the cells, worse at none" in first
    assert "instead of Morgan fingerprints, better at some of the cells, worse at some of the cells" in first
    assert "instead of the constant, better at all of the cells, worse at none" in first
    assert readings(family)[1].startswith("Its error at the lowest loss lies below")


def test_evaluated_cells_stand_by_falling_loss(planted: Path) -> None:
    (family, *_) = load_results(planted).families
    losses = [at.cell["test_loss"] for at in family.evaluated("probe")]
    assert losses == sorted(losses, reverse=True)
    assert [at.cell["size"] for at in family.evaluated("generation")] == ["w8", "w16", "w40"]
