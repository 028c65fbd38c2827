"""The numbers that docs/studies/accuracy tells are those of the rows."""

from pathlib import Path

from chemscale.io import read_json

ROOT = Path(__file__).resolve().parents[2]
TITLES = {"painn": "PaiNN", "allegro": "Allegro", "schnet": "SchNet"}


def test_tables_are_those_of_the_rows():
    lines = (ROOT / "docs" / "studies" / "accuracy" / "README.md").read_text(encoding="utf-8").splitlines()
    rows = read_json(ROOT / "results" / "benchmarks" / "accuracy.json")
    told = set()
    for row in rows:
        words = row["what"].split()
        title = TITLES[words[-1] if words[0] == "force" else words[1].removesuffix("_longer")]
        if words[0] == "control":
            steps, seed = row["settings"]["steps"], words[2].removeprefix("seed")
            told.add(f"| {row['case']} | {title} | {seed} | {steps:,} | {row['ours']:.2f} |")
        elif words[0] == "force":
            ratio = f"{row['ratio']:.3f} [{row['ratio_min']:.3f}, {row['ratio_max']:.3f}]"
            other = TITLES.get(row["peer"].removeprefix("our "))
            if other is not None and (title, other) != ("PaiNN", "SchNet"):
                told.add(f"| {row['case']} | {title} | {other} | {ratio} |")
            elif other is None:
                errors = f"{row['ours']:.2f} | {row['theirs']:.2f} ({row['peer']})"
                told.add(f"| {title} | {row['case']} | {errors} | {ratio} |")
    assert len(told) > 10
    assert told == {line for line in lines if line.startswith(("| ethanol", "| aspirin", "| PaiNN", "| Allegro"))}
