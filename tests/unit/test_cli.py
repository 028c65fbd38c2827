"""The command: its JSON, its exit codes, one message where something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chemscale.study import load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chemscale(tmp_path):
    """A function that runs the command in a folder that holds the smoke study's molecules and nothing else."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(ROOT / "tests" / "data")

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "chemscale.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_plan_is_one_json_object_and_a_readable_table(chemscale):
    done = chemscale("plan", "--config", ROOT / "tests" / "smoke.yaml", "--json")
    assert done.returncode == 0
    plan = json.loads(done.stdout)
    first = plan["cells"][0]
    assert first["N"] == 2 * (12 * 8**2 + 10 * 8) + 2 * 8
    assert plan["total"]["cells"] == len(plan["cells"]) == 24
    assert first["predicted_loss"] is None
    assert plan["reasons"]["predicted_loss"]
    assert chemscale("plan", "--config", ROOT / "tests" / "smoke.yaml").stdout.count("\n") == 26


def test_status_of_an_untouched_study(chemscale):
    done = chemscale("status", "--config", ROOT / "tests" / "smoke.yaml", "--json")
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert status["counts"] == {"done": 0, "running": 0, "failed": 0, "stale": 0, "waiting": 24}
    assert status["next"]["jobs"]["train"] == len(status["next"]["cells"]) == 24
    assert status["retraining"] is None
    assert status["rerun"] is None


def test_a_terminal_without_the_letters_of_a_name_shows_escapes(chemscale, tmp_path, monkeypatch):
    text = (ROOT / "tests" / "smoke.yaml").read_text().replace("results_dir: results", "results_dir: bücher")
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    failure = tmp_path / "bücher" / "smoke" / "cells" / "painn" / "w4" / "n8" / "seed0" / "checkpoint" / "failure.json"
    failure.parent.mkdir(parents=True)
    failure.write_text('{"reason": "no\\nspace \\u001b[2J"}')
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    done = chemscale("status", "--config", "study.yaml")
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("PYTHONUTF8", "1")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = chemscale("status", "--config", "study.yaml")
    assert r"cells/painn/w4/n8/seed0: no\nspace \x1b[2J" in done.stdout
    assert r"b\xfccher/smoke" in done.stdout


def test_an_evaluation_that_cannot_be_read_is_due(chemscale, tmp_path):
    shutil.copy(ROOT / "tests" / "smoke.yaml", tmp_path / "study.yaml")
    before = json.loads(chemscale("status", "--config", "study.yaml", "--json").stdout)
    assert before["evaluations"] == {"done": 0, "running": 0, "failed": 0, "stale": 0, "waiting": 4}
    path = next(iter(load_study(ROOT / "tests" / "smoke.yaml").evaluated))
    folder = tmp_path / "results" / "smoke" / path
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text("{}")
    after = json.loads(chemscale("status", "--config", "study.yaml", "--json").stdout)
    assert after["evaluations"] == {"done": 0, "running": 0, "failed": 0, "stale": 1, "waiting": 3}
    assert after["next"] == before["next"]
    printed = chemscale("status", "--config", "study.yaml").stdout
    assert "evaluations: 0 done, 0 running, 0 failed, 1 stale, 3 waiting" in printed


def test_fit_of_a_table(chemscale, tmp_path):
    rows = "".join(f"{n},{3.0 * n**-0.3}\n" for n in (10**3, 10**4, 10**5, 10**6))
    (tmp_path / "runs.csv").write_text(f"N,loss\n{rows}")
    done = chemscale("fit", "runs.csv", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert set(record) == {
        "form", "parameters", "intervals", "level", "num_runs", "residual_rms", "verdict", "reasons", "notes",
        "num_rows", "left_out",
    }  # fmt: skip
    assert record["parameters"]["beta"] == pytest.approx(0.3, abs=1e-6)
    joint = "".join(
        f"{n},{d},{0.8 + 20 * n**-0.4 + 30 * d**-0.5}\n"
        for n in (1e3, 1e4, 1e5)
        for d in (1e3, 3e3, 1e4, 3e4, 1e5, 3e5)
    )
    (tmp_path / "grid.csv").write_text(f"N,D,loss\n{joint}")
    found = json.loads(chemscale("fit", "grid.csv", "--form", "joint", "--json").stdout)
    assert found["verdict"] == "accepted", found["reasons"]
    assert found["parameters"]["alpha"] == pytest.approx(0.4, abs=1e-4)
    refused = json.loads(chemscale("fit", "runs.csv", "--form", "offset", "--json").stdout)
    assert refused["verdict"] == "refused"
    assert refused["reasons"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--config", "none.yaml"], "no such file"),
        (["status", "--config", "none.yaml"], "no such file"),
        (["fit", "none.csv"], "none.csv"),
        (["audit", "nowhere"], "no finished study"),
        (["audit", ".", "--deep"], "not there yet"),
        (["export", "cell", "out", "--to", "hf"], "no metrics.json and config.json"),
        (["export", "cell", "out", "--to", "ase"], "no metrics.json and config.json"),
        (["export", "cell", "out", "--to", "onnx"], "name hf (language models) or ase (potentials)"),
        (["train", "cells/none", "--config", ROOT / "config.yaml"], "no such cell in"),
        (["generate", "cell"], "no metrics.json and config.json"),
        (["embed", "cell", "file", "out"], "no metrics.json and config.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(chemscale, arguments, message):
    done = chemscale(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_package_imports_neither_torch_nor_pandas():
    code = "import sys, chemscale, chemscale.cli; print([m for m in ('torch', 'pandas', 'rdkit') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
