"""One cell fails: the others finish, its reason is told, and the study goes on without it only where it is waived."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Tree

BROKEN = {"cells/painn/w4/n8/seed0", "cells/painn/w4/n32/seed0"}


def write(tree: Tree, config: dict[str, Any]) -> None:
    (tree.path / "broken.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_a_failing_cell_leaves_the_others_be(finished: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMSCALE_RETRAIN", "yes")
    config = yaml.safe_load((finished.path / "tests/smoke.yaml").read_text())
    # the same rate as before for w8 (whose cells stay done), one that no loss survives for w4
    rate = config["families"]["painn"]["training"]["learning_rate"]["at_reference"]
    config["families"]["painn"]["training"]["learning_rate"] = {"at_reference": rate, "reference": 8, "power": -100}
    # work of other cells that has to finish although some fail
    config["families"]["chemgpt"]["grid"].append({"sizes": ["w8"], "num_samples": [25], "seeds": [5]})
    write(finished, config)
    done = finished.snakemake("all", "--keep-going", config="broken.yaml")
    assert done.returncode == 1
    assert (finished.path / "results/smoke/cells/chemgpt/w8/n25/seed5/metrics.json").exists()

    status = finished.run("-m", "chemscale.cli", "status", "--config", "broken.yaml", "--json")
    assert status.returncode == 1
    found = json.loads(status.stdout)
    failed = {cell["cell"]: cell["reason"] for cell in found["cells"] if cell["state"] == "failed"}
    assert set(failed) == BROKEN
    assert all("finite" in reason for reason in failed.values())
    again = finished.run("-m", *found["rerun"].split(), "-n")
    assert again.returncode == 0, again.stderr
    assert all(f"results/smoke/{cell}/metrics.json" in again.stdout for cell in BROKEN)

    config["waived"] = sorted(BROKEN)
    write(finished, config)
    done = finished.snakemake("all", "--keep-going", config="broken.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished.path / "results/smoke/report/index.html").read_text()
    assert all(cell in page for cell in BROKEN)
