"""`chemscale status` and `snakemake -n` speak of the same jobs, in every situation that a study can be in."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
import yaml

from chemscale.io import read_json, write_json
from chemscale.planning.jobs import jobs_of
from chemscale.planning.status import study_status
from chemscale.study import load_study

if TYPE_CHECKING:
    from conftest import Tree

pytestmark = pytest.mark.slow
ROOT = "results/smoke"
CELL = "cells/painn/w8/n8/seed0"
PUBLISHING = {"report", "seal", "audit"}
TABLES = {"fits", "figures", "audit_records", *PUBLISHING}


@pytest.fixture(scope="module")
def study(smoke_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A finished smoke study for the whole module: each test leaves it as it was."""
    return smoke_tree.copy(tmp_path_factory.mktemp("status") / "finished")


def status(tree: Tree, config: str = "tests/smoke.yaml") -> dict[str, Any]:
    """What `chemscale status --json` prints, after `snakemake -n` was seen to plan the same jobs."""
    done = tree.run("-m", "chemscale.cli", "status", "--config", config, "--json")
    assert done.returncode in (0, 1), done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 1) == (printed["rerun"] is not None)
    dry = tree.snakemake("all", "-n", config=config)
    output = dry.stdout + dry.stderr
    assert dry.returncode == 0, output
    assert (printed["retraining"] or "") in dry.stderr
    assert ("would be trained again" in dry.stderr) == bool(printed["retraining"])
    counts = re.findall(r"^(\w+) +(\d+)$", output.partition("Job stats:")[2].partition("total")[0], re.MULTILINE)
    jobs = {rule: int(count) for rule, count in counts if rule != "all"}
    assert jobs == printed["next"]["jobs"]
    assert (
        sorted(re.findall(r"^rule train:.*?wildcards: cell=(\S+)$", output, re.MULTILINE | re.DOTALL))
        == (printed["next"]["cells"])
    )
    return printed


def states(printed: dict[str, Any], state: str) -> dict[str, str]:
    """The cells of a state, with the reasons."""
    return {cell["cell"]: cell["reason"] for cell in printed["cells"] if cell["state"] == state and not cell["waived"]}


def changed(tree: Tree, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The smoke study's config with a change, as a file of the tree."""
    config = yaml.safe_load((tree.path / "tests/smoke.yaml").read_text())
    change(config)
    (tree.path / name).write_text(yaml.safe_dump(config))
    return name


@contextmanager
def without(path: Path) -> Iterator[None]:
    """A file or folder is gone within the block."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        aside.rename(path)


def test_a_finished_study(study: Tree) -> None:
    printed = status(study)
    assert printed["counts"] == {"done": 24, "running": 0, "failed": 0, "stale": 0, "waiting": 0}
    assert printed["stages"] == []
    assert printed["next"] == {"jobs": {}, "cells": []}
    assert printed["retraining"] is printed["rerun"] is None


def test_times_of_files_decide_nothing(study: Tree) -> None:
    for path in study.path.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            # sources younger than results, results in no order
            os.utime(path, (2e9, 2e9) if path.suffix == ".py" else (1e9 + crc32(path.name.encode()) % 1000,) * 2)
    assert status(study)["next"]["jobs"] == {}


def test_what_snakemake_remembers_decides_nothing(study: Tree) -> None:
    with without(study.path / ".snakemake"):
        assert status(study)["next"]["jobs"] == {}


@pytest.mark.parametrize("with_data", [False, True])
def test_a_clone_with_copied_results_has_nothing_to_do(study: Tree, tree: Tree, with_data: bool) -> None:
    for folder in ("results", "data") if with_data else ("results",):
        shutil.copytree(study.path / folder, tree.path / folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    assert status(tree)["next"]["jobs"] == {}


def test_a_changed_rate(study: Tree) -> None:
    def change(config: dict[str, Any]) -> None:
        config["families"]["painn"]["training"]["learning_rate"]["at_reference"] = 0.006

    printed = status(study, changed(study, "rate.yaml", change))
    stale = states(printed, "stale")
    assert {cell.split("/")[1] for cell in stale} == {"painn"}
    assert len(stale) == printed["counts"]["stale"] == 5
    assert all("training.learning_rate: 0.005, now 0.006" in reason for reason in stale.values())
    assert "5 of 24 finished cells would be trained again" in printed["retraining"]
    assert "training.learning_rate" in printed["retraining"]
    plan = study.run("-m", "chemscale.cli", "plan", "--config", "rate.yaml", "--json")
    assert json.loads(plan.stdout)["retraining"] == printed["retraining"]


def test_a_changed_seed_of_the_data(study: Tree) -> None:
    printed = status(study, changed(study, "data.yaml", lambda config: config["data"]["conformers"].update(seed=1)))
    stale = states(printed, "stale")
    assert {cell.split("/")[1] for cell in stale} == {"painn"}
    assert len(stale) == 5
    assert all("data.key" in reason for reason in stale.values())
    assert printed["next"]["jobs"]["assemble"] == 1


def test_a_changed_level_of_the_fits(study: Tree) -> None:
    printed = status(study, changed(study, "level.yaml", lambda config: config["fits"].update(level=0.8)))
    assert printed["next"]["cells"] == []
    assert {"study", "plan", "gather", "data_table", "evaluate", *TABLES} == set(printed["next"]["jobs"])
    reasons = {stage["job"]: stage["reason"] for stage in printed["stages"]}
    assert "config.fits.level: 0.9, now 0.8" in reasons["study"]


def test_a_changed_user_file_is_seen_by_its_content(study: Tree) -> None:
    table = study.path / "tests/data/smoke_molecules.csv"
    text, times = table.read_text(), table.stat()
    table.write_text(text + "CCCCCCCCCCCCO\n")
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    printed = status(study)
    packs = planned(study, "packs")
    table.write_text(text)
    # cells whose data may come out changed share a process, too
    assert packs["train_pack"] == 1
    assert {"source", "read", "assemble", "train"} <= set(printed["next"]["jobs"])
    assert "only if their data change" in printed["retraining"]


def test_edited_code(study: Tree) -> None:
    module = study.path / "chemscale/models/painn.py"
    text = module.read_text()
    module.write_text(text + "\n# an edit\n")
    printed = status(study)
    module.write_text(text)
    stale = states(printed, "stale")
    assert len(stale) == 5
    assert set(stale.values()) == {"the code of painn"}


@pytest.mark.parametrize("name", ["metrics.json", "provenance.json", "test_clusters.parquet"])
def test_a_deleted_record_of_a_cell(study: Tree, name: str) -> None:
    with without(study.path / ROOT / CELL / name):
        printed = status(study)
    assert printed["next"] == {"jobs": dict.fromkeys(("train", "gather", *TABLES), 1), "cells": [CELL]}
    assert f"{name} is missing" in states(printed, "waiting")[CELL]
    assert printed["retraining"] is None


@pytest.mark.parametrize(
    ("path", "jobs"),
    [
        (f"{ROOT}/figures", {"figures", *PUBLISHING}),
        (f"{ROOT}/tables/fits.parquet", TABLES),
        (f"{ROOT}/audit/SHA256SUMS", {"seal", "audit"}),
        (f"{ROOT}/cells/chemgpt/w8/n400/seed0/evaluation.json", {"evaluate", "gather", *TABLES}),
        ("subsets", {"subset"}),
        ("arrays/arrays.json", {"arrays"}),
    ],
)
def test_a_deleted_file_is_due_again(study: Tree, path: str, jobs: set[str]) -> None:
    place = study.path / path
    if not path.startswith(ROOT):
        place = next((study.path / "data").glob("file-*")) / path
    with without(place):
        assert set(status(study)["next"]["jobs"]) == jobs


DAMAGES = (
    "",
    "[]",
    '"text"',
    '{"schema_version": 1}',
    '{"schema_version": 1, "state": "done"}',
    '{"identity": ["config"]}',
)


@pytest.mark.parametrize(
    ("path", "job"),
    [
        (f"{ROOT}/config.json", "study"),
        (f"{ROOT}/logs/jobs/fits.json", "fits"),
        (f"{ROOT}/logs/jobs/passport-molecules.json", "passport_of_molecules"),
        (f"{ROOT}/cells/chemgpt/w8/n400/seed0/evaluation.json", "evaluate"),
        (f"{ROOT}/{CELL}/metrics.json", "train"),
        (f"{ROOT}/{CELL}/provenance.json", "train"),
        (f"{ROOT}/{CELL}/config.json", "train"),
        ("jobs/source.json", "source"),
        ("jobs/assemble.json", "assemble"),
        # what cells read of their data can't tell then
        ("manifest.json", None),
        ("arrays/arrays.json", None),
        ("subsets/seed0/n25.parquet", None),
        (f"{ROOT}/logs/jobs/evaluate/cells/chemgpt/w8/n400/seed0.json", None),
        (f"{ROOT}/{CELL}/checkpoint/finished/complete.json", None),
    ],
)
def test_a_damaged_record_is_due_with_a_reason(
    study: Tree, monkeypatch: pytest.MonkeyPatch, path: str, job: str | None
) -> None:
    monkeypatch.chdir(study.path)
    place = Path(path) if path.startswith(ROOT) else next(Path("data").glob("file-*")) / path
    whole = place.read_bytes()
    try:
        for damage in DAMAGES:
            place.write_text(damage)
            found = study_status(load_study("tests/smoke.yaml"))
            reasons = [entry["reason"] for entry in (*found["cells"], *found["stages"]) if entry["reason"]]
            if job is None:
                continue
            if damage.startswith("{") and path.endswith(("provenance.json", f"{CELL}/config.json")):
                continue  # what they say decides nothing: the digests of metrics.json do
            assert job in found["next"]["jobs"], damage
            assert any(reasons)
            assert found["retraining"] is None or job in ("source", "assemble")
    finally:
        place.write_bytes(whole)


def test_a_failed_data_stage(study: Tree) -> None:
    def change(config: dict[str, Any]) -> None:
        config["data"]["molecules"].update(max_symbols=4, max_reject_share=0.0)

    config = changed(study, "rejects.yaml", change)
    manifest = load_study(study.path / config).data_folder("molecules") / "manifest.json"
    done = study.snakemake(str(manifest), config=config)
    assert done.returncode == 1
    printed = status(study, config)
    failed = {stage["job"].split()[0]: stage["reason"] for stage in printed["stages"] if stage["state"] == "failed"}
    assert set(failed) == {"assemble"}
    assert "max_reject_share" in failed["assemble"]
    assert str(manifest) in printed["rerun"]


def test_a_failed_evaluation(study: Tree) -> None:
    cell = "cells/painn/w4/n32/seed0"
    folder = study.path / ROOT / cell
    with without(folder / "evaluation.json"), without(folder / "checkpoint/weights.safetensors"):
        assert study.snakemake(f"{ROOT}/{cell}/evaluation.json").returncode == 1
        printed = status(study)
    assert printed["evaluations"]["failed"] == 1
    (failed,) = [stage for stage in printed["stages"] if stage["state"] == "failed"]
    assert failed["job"] == f"evaluate {cell}"
    assert "weights" in failed["reason"]
    assert f"{ROOT}/{cell}/evaluation.json" in printed["rerun"]
    # the study is whole again, but for the record of the failure
    assert study.snakemake(f"{ROOT}/{cell}/evaluation.json").returncode == 0


def planned(tree: Tree, *arguments: str) -> dict[str, int]:
    """The number of jobs of each rule that `snakemake -n` plans."""
    done = tree.snakemake("-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def test_what_the_command_line_forces_needs_no_data_of_finished_cells(study: Tree) -> None:
    with without(study.path / "data"):
        assert planned(study, "all", "-R", "fits") == {"all": 1, **dict.fromkeys(TABLES, 1)}
        assert planned(study, "-f", "gather") == {"gather": 1}


def test_a_pack_trains_its_cells_that_are_due_alone(study: Tree) -> None:
    with without(study.path / ROOT / CELL), without(study.path / "data"):
        jobs = planned(study, "packs")
    # the other cells of the pack have other subsets
    assert (jobs["train_pack"], jobs["subset"]) == (1, 1)


def test_a_cell_that_a_pack_has_trained_again_waits_to_be_published(study: Tree) -> None:
    record = study.path / ROOT / CELL / "provenance.json"
    whole = record.read_bytes()
    provenance = read_json(record)
    write_json(record, provenance | {"identity": provenance["identity"] | {"data": "of former times"}})
    printed = status(study)
    record.write_bytes(whole)
    assert list(states(printed, "waiting")) == printed["next"]["cells"] == [CELL]
    assert printed["retraining"] is None


def test_a_failure_long_overcome_is_forgotten(study: Tree) -> None:
    folder = load_study(study.path / "tests/smoke.yaml").data_folder("molecules")
    record = study.path / folder / "jobs/chunk-0of1.json"
    whole = record.read_bytes()
    write_json(record, {"schema_version": 1, "state": "failed", "reason": "no space left"})
    printed = status(study)
    record.write_bytes(whole)
    assert printed["next"]["jobs"] == {}
    assert printed["stages"] == []


def test_an_evaluation_of_other_molecules_is_stale(study: Tree) -> None:
    cell = "cells/chemgpt/w8/n400/seed0"
    record = study.path / ROOT / f"logs/jobs/evaluate/{cell}.json"
    whole = record.read_bytes()
    inputs = read_json(record)["inputs"]
    jobs = jobs_of(load_study(study.path / "tests/smoke.yaml"))
    job = jobs.of("evaluate", {"cell": cell})
    (place,) = (number for number, path in enumerate(jobs.lasting_inputs(job)) if "/properties/" in path)
    inputs[place] = "what a killed run left"
    write_json(record, read_json(record) | {"inputs": inputs})
    printed = status(study)
    record.write_bytes(whole)
    assert printed["next"]["jobs"] == {"evaluate": 1, "gather": 1, **dict.fromkeys(TABLES, 1)}
    assert "/properties/" in printed["stages"][0]["reason"]


@contextmanager
def unfinished(study: Tree) -> Iterator[Path]:
    """A cell without any record of its training; gives its empty `checkpoint/`."""
    with without(study.path / ROOT / CELL):
        checkpoint = study.path / ROOT / CELL / "checkpoint"
        checkpoint.mkdir(parents=True)
        yield checkpoint


def test_a_killed_cell(study: Tree) -> None:
    with unfinished(study) as checkpoint:
        write_json(checkpoint / "attempts.json", {"attempts": 1})
        # what Snakemake leaves when it is killed itself
        name = base64.urlsafe_b64encode(f"{ROOT}/{CELL}/metrics.json".encode()).decode()
        marker = study.path / ".snakemake/incomplete" / name
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        printed = status(study)
        marker.unlink()
    assert "killed" in states(printed, "failed")[CELL]
    assert f"{ROOT}/{CELL}/metrics.json" in printed["rerun"]


def test_a_killed_stage(study: Tree) -> None:
    record = study.path / ROOT / "logs/jobs/fits.json"
    text = record.read_text()
    write_json(record, read_json(record) | {"state": "started"})
    printed = status(study)
    record.write_text(text)
    assert [stage["job"] for stage in printed["stages"] if stage["state"] == "failed"] == ["fits"]


def test_a_diverged_cell(study: Tree) -> None:
    with unfinished(study) as checkpoint:
        write_json(checkpoint / "failure.json", {"reason": "DivergedError: loss is not finite", "attempts": 2})
        printed = status(study)
    assert states(printed, "failed") == {CELL: "DivergedError: loss is not finite"}


def test_a_running_cell(study: Tree) -> None:
    with unfinished(study) as checkpoint, open(checkpoint / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = status(study)
    assert states(printed, "running") == {CELL: None}
    assert printed["rerun"] is None


def test_a_waived_cell(study: Tree) -> None:
    config = changed(study, "waived.yaml", lambda config: config.update(waived=[CELL]))
    with without(study.path / ROOT / CELL):
        printed = status(study, config)
    assert [cell["cell"] for cell in printed["cells"] if cell["waived"]] == [CELL]
    assert CELL not in printed["next"]["cells"]
    assert {"study", "gather", *TABLES} <= set(printed["next"]["jobs"])


def test_a_locked_folder(study: Tree) -> None:
    lock = study.path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"{ROOT}/config.json")
    printed = status(study)
    lock.unlink()
    assert printed["locked"]
    assert not status(study)["locked"]


def test_a_change_that_loses_much_is_refused_without_a_terminal(study: Tree) -> None:
    def change(config: dict[str, Any]) -> None:
        config["families"]["chemgpt"]["protocol"]["steps"] = 50

    config = changed(study, "steps.yaml", change)
    before = {path: path.read_bytes() for path in (study.path / ROOT).rglob("metrics.json")}
    for command in (
        ["-m", "snakemake", "--cores", "2", "all", "--configfile", config],
        ["workflow/run_study.py", "--configfile", config],
    ):
        done = study.run(*command)
        assert done.returncode == 2, done.stdout + done.stderr
        output = done.stdout + done.stderr
        assert "17 of 24 finished cells would be trained again" in output
        assert "protocol.steps: 60, now 50" in output
        assert "CHEMSCALE_RETRAIN=yes" in output
        assert "Traceback" not in output
        assert {path: path.read_bytes() for path in (study.path / ROOT).rglob("metrics.json")} == before
    assert not (study.path / ROOT / "former").exists()
    # neither the lock nor the question stays
    assert not status(study)["locked"]


def test_retrained_cells_leave_their_old_results_in_former(finished: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(config: dict[str, Any]) -> None:
        config["families"]["painn"]["protocol"]["steps"] = 39

    cell = "cells/painn/w4/n8/seed0"
    config = changed(finished, "steps.yaml", change)
    before = (finished.path / ROOT / cell / "metrics.json").read_bytes()
    monkeypatch.setenv("CHEMSCALE_RETRAIN", "yes")
    done = finished.snakemake(f"{ROOT}/{cell}/metrics.json", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 24 finished cells would be trained again" in done.stderr
    (former,) = (finished.path / ROOT / "former").glob(f"*/{cell}/metrics.json")
    assert former.read_bytes() == before
    assert (former.parent / "checkpoint/finished").is_dir()
    assert (finished.path / ROOT / cell / "metrics.json").read_bytes() != before
    # the other cells of the family wait for a run that names them
    assert len(states(status(finished, config), "stale")) == 4


def test_the_graph_of_jobs_is_snakemakes(tree: Tree) -> None:
    dry = tree.snakemake("all", "-n", "--forceall")
    assert dry.returncode == 0, dry.stderr
    study = load_study(tree.path / "tests/smoke.yaml")
    blocks = re.findall(r"^(?:local)?rule (\w+):\n(?: +input: (.*)\n)? +output: (.*)\n", dry.stdout, re.MULTILINE)
    listed = {
        outputs.split(", ")[0]: (rule, set(inputs.split(", ")), set(outputs.split(", ")))
        for rule, inputs, outputs in blocks
    }
    jobs = {job.outputs[0]: (job.rule, set(job.inputs) or {""}, set(job.outputs)) for job in jobs_of(study)}
    listed = {first: values for first, values in listed.items() if values[0] != "all"}
    assert jobs == listed
