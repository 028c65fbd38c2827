"""The audit of a finished study: it passes elsewhere, and each change is named by the check that should see it."""

import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from chemscale.audit import run
from chemscale.audit.files import check_files
from chemscale.audit.findings import Findings
from chemscale.audit.run import audit_command, seal
from chemscale.audit.tables import check_page, check_text
from chemscale.audit.verdicts import check_stored
from chemscale.errors import ChemscaleError, InputError
from chemscale.grid import Cell
from chemscale.io import digest, read_json, read_parquet, write_json, write_parquet
from chemscale.reporting import figures
from chemscale.reporting.page import render

CELL = "cells/painn/w8/n8/seed0"


@pytest.fixture(scope="module")
def sealed(smoke_tree, tmp_path_factory):
    """The smoke study's results in a folder of their own: no data, no config, no repository beside them."""
    target = tmp_path_factory.mktemp("elsewhere") / "study"
    shutil.copytree(smoke_tree.path / "results" / "smoke", target)
    return target


@pytest.fixture
def study(sealed, tmp_path):
    return Path(shutil.copytree(sealed, tmp_path / "study"))


@pytest.fixture(scope="module")
def draw(sealed):
    """The figures of the honest study, drawn once: no change here is one of figures."""
    drawings = {form: figures.draw(sealed, form) for form in ("svg", "png")}
    return lambda root, form: drawings[form]


@pytest.fixture(scope="module")
def records(sealed):
    """The audit of the honest study's records."""
    return run.audit(sealed)


def failures(root, draw):
    """The failed checks and their evidence; the exit code must agree."""
    code, result = audit_command(root, render, draw)
    failed = {check["name"]: " ".join(check["evidence"]) for check in result["checks"] if check["verdict"] == "failed"}
    assert code == (1 if failed else 0)
    assert result["verdict"] == ("failed" if failed else "ok")
    return failed


def edit_json(path, change):
    value = read_json(path)
    change(value)
    write_json(path, value)


def edit_column(path, column, change):
    """Replace a column by `change` of its values; the file's metadata stay."""
    table = read_parquet(path)
    index = table.schema.get_field_index(column)
    values = pa.array(change(table[column].to_pylist()), table.schema.field(index).type)
    write_parquet(path, table.set_column(index, table.schema.field(index), values))


def test_a_copy_elsewhere_passes_and_every_check_compared_something(sealed, draw):
    code, result = audit_command(sealed, render, draw)
    assert code == 0
    assert {check["verdict"] for check in result["checks"]} == {"ok"}
    assert all(check["compared"] > 0 for check in result["checks"])


def test_one_byte_of_any_kind_of_file_is_seen(sealed):
    kinds = {}
    for path in sorted(sealed.rglob("*")):
        relative = path.relative_to(sealed)
        if path.is_file() and relative.parts[0] not in ("logs", "benchmarks") and path.stat().st_size:
            kinds.setdefault((relative.parts[0], path.suffix, path.stem[:5]), path)
    kinds = {kind: path for kind, path in kinds.items() if path.name not in ("SHA256SUMS", "audit.json")}
    assert len(kinds) > 15
    study = read_json(sealed / "config.json")
    for path in kinds.values():
        before = path.read_bytes()
        middle = len(before) // 2
        path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        try:
            findings = Findings("files", "something")
            check_files(sealed, study, findings)
            assert [f"{path.relative_to(sealed).as_posix()}: changed since it was sealed"] == findings.differences
        finally:
            path.write_bytes(before)


@pytest.mark.parametrize("kind", ["missing", "unknown", "link", "unreadable record"])
def test_files_that_are_not_as_sealed(study, draw, kind):
    target = study / CELL / "metrics.json"
    if kind == "missing":
        target.unlink()
    elif kind == "unknown":
        (study / "tables" / "more.parquet").write_text("x")
        target = study / "tables" / "more.parquet"
    elif kind == "link":
        target.rename(study / "logs" / "elsewhere.json")
        target.symlink_to(study / "logs" / "elsewhere.json")
    else:
        target.write_bytes(b"\xff\x00")
    found = failures(study, draw)
    # behind a link may lie anything: nothing is read then
    assert target.relative_to(study).as_posix() in found["folder" if kind == "link" else "files"]
    assert (kind in ("missing", "unreadable record")) == ("records" in found)
    assert (kind == "link") == (list(found) == ["folder"])


def _better_loss(study):
    edit_json(study / CELL / "metrics.json", lambda metrics: metrics.update(test_loss=metrics["test_loss"] * 0.9))


def _better_loss_everywhere(study):
    """A loss improved in the record and in the table alike."""
    _better_loss(study)
    edit_column(
        study / "tables" / "cells.parquet", "test_loss", lambda losses: [_improved(study, loss) for loss in losses]
    )


def _improved(study, loss):
    new = read_json(study / CELL / "metrics.json")["test_loss"]
    return new if loss * 0.9 == new else loss


def _exponent(study):
    edit_column(study / "tables" / "fits.parquet", "beta", lambda betas: [b and b * 1.01 for b in betas])


def _interval(study):
    edit_column(study / "tables" / "fits.parquet", "beta_low", lambda lows: [low and low + 1e-4 for low in lows])


def _contrast(study):
    edit_column(study / "tables" / "contrasts.parquet", "low", lambda lows: [low and low + 1e-4 for low in lows])


def _contrast_without_correction(study):
    """The intervals of secondary contrasts given at the nominal level."""
    path = study / "tables" / "contrasts.parquet"
    nominal = read_parquet(path)["level_nominal"].to_pylist()
    edit_column(path, "level", lambda levels: nominal)


def _primary_after_all(study):
    """A secondary contrast made the primary one when its result was seen."""
    edit_json(
        study / "config.json",
        lambda config: config["config"]["contrasts"]["wider"].update(role="primary"),
    )


def _contrast_lost(study):
    page = study / "report" / "index.html"
    text = page.read_text()
    found = re.search(r'<span data-table="contrasts"[^>]*data-column="high">[^<]*</span>', text)
    page.write_text(text.replace(found.group(0), ""))


def _accepted(study):
    edit_column(study / "tables" / "fits.parquet", "verdict", lambda verdicts: ["accepted"] * len(verdicts))


def _page(study):
    page = study / "report" / "index.html"
    text = page.read_text()
    found = re.search(r'data-table="cells"[^>]*data-column="test_loss">([\d.]+)<', text)
    page.write_text(text[: found.start(1)] + "0.001" + text[found.end(1) :])


def _number_lost(study):
    page = study / "report" / "index.html"
    page.write_text(re.sub(r'<span data-table="cells"[^>]*data-column="test_loss">[^<]*</span>', "", page.read_text()))


def _moved_molecule(study):
    def move(splits):
        splits[splits.index("test")] = "train"
        return splits

    edit_column(study / "data" / "molecules" / "rows.parquet", "split", move)


def _moved_molecule_and_manifest(study):
    """A molecule moved with every count and digest of the manifest mended."""
    from chemscale.data.subsets import rows_digest

    _moved_molecule(study)
    table = read_parquet(study / "data" / "molecules" / "rows.parquet")
    path = study / "data" / "molecules" / "manifest.json"
    manifest = read_json(path)
    for split, stated in manifest["splits"].items():
        part = table.filter(pc.equal(table["split"], split))
        stated.update(
            rows=part.num_rows,
            tokens=sum(part["length"].to_pylist()),
            groups=len(set(part["group"].to_pylist())),
            digest=rows_digest(part["row"].to_pylist()),
        )
    manifest["digest"] = digest({key: value for key, value in manifest.items() if key != "digest"})
    write_json(path, manifest)


def _not_nested(study):
    """A cell whose subset is another one of the same number of rows."""
    other = read_json(study / "cells/chemgpt/w16/n25/seed1/metrics.json")["subset_digest"]
    edit_json(study / "cells/chemgpt/w16/n25/seed0/metrics.json", lambda metrics: metrics.update(subset_digest=other))


def _dropped_cell(study):
    shutil.rmtree(study / CELL)
    for name in ("cells", "test_clusters", "plan"):
        path = study / "tables" / f"{name}.parquet"
        table = read_parquet(path)
        write_parquet(path, table.filter(pc.not_equal(table["cell"], CELL)))


def _dropped_cell_and_config(study):
    _dropped_cell(study)

    def drop(config):
        cells = [cell for cell in config["cells"] if Cell.from_dict(cell).path != CELL]
        assert len(cells) == len(config["cells"]) - 1
        config["cells"] = cells

    edit_json(study / "config.json", drop)


def _duplicated_cell(study):
    table = read_parquet(study / "tables" / "cells.parquet")
    write_parquet(study / "tables" / "cells.parquet", pa.concat_tables([table, table.slice(0, 1)]))


def _few_steps(study):
    """A cell trained for fewer steps than its protocol says, told alike by its metrics and its curve."""
    path = study / CELL / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [line for line in lines if line["step"] <= 30]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    losses = {line["step"]: line["val_loss"] for line in kept if "val_loss" in line}
    best = min(losses, key=losses.get)
    last = [line for line in kept if "loss" in line][-1]
    seen = last["frames_seen"]

    def change(metrics):
        metrics.update(steps=30, best_step=best, val_loss=losses[best], samples_seen=seen, frames_seen=seen)
        metrics.update(epochs=seen / metrics["num_samples"], flops_full=last["flops_full"])

    edit_json(study / CELL / "metrics.json", change)


def _moved_to_the_group_of_another(study):
    """A training molecule moved to test under the group of a test molecule, where the group's hash agrees."""
    path = study / "data" / "molecules" / "rows.parquet"
    table = read_parquet(path)
    splits, groups = table["split"].to_pylist(), table["group"].to_pylist()
    at, other = splits.index("train"), splits.index("test")
    splits[at], groups[at] = "test", groups[other]
    for column, values in (("split", splits), ("group", groups)):
        edit_column(path, column, lambda _, values=values: values)


def _frame_out_of_the_gap(study):
    def move(splits):
        splits[splits.index("gap")] = "train"
        return splits

    edit_column(study / "data" / "trajectories" / "rows.parquet", "split", move)


def _a_loss_among_the_test_metrics(study):
    """A control's loss replaced in its row of the table by a test metric of that name."""
    path = study / "controls/chemgpt_more_steps/chemgpt/w16/n400/seed0/metrics.json"
    edit_json(path, lambda metrics: metrics["test_metrics"].update(loss=1.0))


def _unmarked_number(study):
    """A number of the page changed and its place in the tables forgotten."""
    page = study / "report" / "index.html"
    found = re.search(r'<span data-table="slopes"[^>]*data-column="slope">[^<]*</span>', page.read_text())
    page.write_text(page.read_text().replace(found.group(0), "0.999", 1))


def _digit_beside_a_number(study):
    page = study / "report" / "index.html"
    page.write_text(
        page.read_text().replace('<span data-table="control_effects"', '1<span data-table="control_effects"')
    )


def _data_version(study):
    edit_column(study / "tables" / "data.parquet", "version", lambda versions: ["another", *versions[1:]])


def _code_of_another(study):
    edit_json(study / CELL / "metrics.json", lambda metrics: metrics.update(code_digest="0" * 64))


def _shorter_curve(study):
    path = study / CELL / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))


def _verdict(study):
    edit_json(study / "audit" / "records.json", lambda record: record["checks"][2].update(verdict="failed"))


def _rejects(study):
    edit_json(study / "data" / "conformers" / "manifest.json", lambda manifest: manifest["rejected"].update(lost=3))


def _another_scaffold(study):
    """A scaffold replaced by one that no other molecule has."""

    def replace(scaffolds):
        at = next(index for index, scaffold in enumerate(scaffolds) if scaffold)
        return [*scaffolds[:at], "0" * 32, *scaffolds[at + 1 :]]

    edit_column(study / "data" / "molecules" / "rows.parquet", "scaffold", replace)


def _another_relative(study):
    """A molecule that is said to have another parent by the independent definition."""

    def replace(relatives):
        at = next(index for index, relative in enumerate(relatives) if relative)
        return [*relatives[:at], "0" * 32, *relatives[at + 1 :]]

    edit_column(study / "data" / "molecules" / "rows.parquet", "relative", replace)


def _no_scaffolds(study):
    """Scaffolds that the config asks for, left out of rows and passport alike."""
    path = study / "data" / "molecules" / "rows.parquet"
    write_parquet(path, read_parquet(path).drop_columns("scaffold"))

    def drop(passport):
        passport["scaffolds"] = None
        for pair in passport["overlaps"]:
            pair["scaffolds"] = None

    edit_json(study / "data" / "molecules" / "passport.json", drop)


EVALUATED = "cells/chemgpt/w8/n400/seed0/evaluation.json"


def _evaluation(study, change):
    edit_json(study / EVALUATED, change)


def _result(metric, subject, field="value"):
    """A function that changes a number of an evaluation a little."""

    def change(study):
        def edit(record):
            (row,) = [row for row in record["results"] if (row["metric"], row["subject"]) == (metric, subject)]
            row[field] *= 0.999

        _evaluation(study, edit)

    return change


def _prediction(study):
    """A better prediction, which no number beside it follows from."""

    def edit(record):
        record["probe"]["predictions"]["trained"]["gap"][0] = record["probe"]["test"]["gap"][0]

    _evaluation(study, edit)


def _easier_truth(study):
    """Truths nearer to the predictions in one cell, with all of its numbers made anew."""
    from chemscale.evaluation.measures import results_of

    def edit(record):
        record["probe"]["test"]["gap"] = record["probe"]["predictions"]["trained"]["gap"]
        record["results"] = results_of(record)

    _evaluation(study, edit)


def _more_novel(study):
    """Known molecules called novel, with all numbers made anew."""
    from chemscale.evaluation.measures import results_of

    def edit(record):
        record["generation"]["known"] = [not known for known in record["generation"]["known"]]
        record["results"] = results_of(record)

    _evaluation(study, edit)


def _no_evaluation(study):
    (study / EVALUATED).unlink()


def _more_evaluations(study):
    shutil.copy(study / EVALUATED, study / "cells/chemgpt/w8/n25/seed0/evaluation.json")


def _column_of_an_evaluation(study):
    edit_column(
        study / "tables" / "cells.parquet", "probe_gap_mae", lambda errors: [error and error * 0.9 for error in errors]
    )


def _row_of_an_evaluation(study):
    edit_column(study / "tables" / "evaluation.parquet", "high", lambda ends: [end and end * 1.01 for end in ends])


@pytest.mark.parametrize(
    ("change", "check", "named"),
    [
        (_better_loss, "records", CELL),
        (_better_loss_everywhere, "records", CELL),
        (_exponent, "fits", "column beta"),
        (_interval, "fits", "column beta_low"),
        (_accepted, "fits", "column verdict"),
        (_contrast, "fits", "column low"),
        (_contrast_without_correction, "fits", "row wider/exponent_data, column level"),
        (_primary_after_all, "fits", "row wider/exponent_data, column role"),
        (_contrast_lost, "page", "contrasts, "),
        (_page, "page", "column test_loss"),
        (_number_lost, "page", "is not on the page"),
        (_moved_molecule, "data", "its group's hash says test"),
        (_moved_molecule_and_manifest, "data", "its group's hash says test"),
        (_moved_molecule_and_manifest, "subsets", "test_digest"),
        (_not_nested, "subsets", "cells/chemgpt/w16/n25/seed0"),
        (_moved_to_the_group_of_another, "subsets", "clusters and counts"),
        (_frame_out_of_the_gap, "data", "its time says gap"),
        (_few_steps, "curves", "metrics.jsonl: steps: 30, 40"),
        (_code_of_another, "records", "code_digest"),
        (_a_loss_among_the_test_metrics, "gathered", "test_metrics.loss"),
        (_unmarked_number, "text", "0.999"),
        (_digit_beside_a_number, "text", "lines differ"),
        (_data_version, "data table", "column version"),
        (_dropped_cell, "records", CELL),
        (_dropped_cell, "grid", CELL),
        (_dropped_cell_and_config, "grid", f"{CELL} is missing"),
        (_duplicated_cell, "gathered", "rows"),
        (_shorter_curve, "curves", CELL),
        (_verdict, "verdict", "records.json"),
        (_rejects, "data", "rows_in"),
        (_another_scaffold, "data", "row, scaffold of shards/shard-00000.parquet"),
        (_another_relative, "data", "passport.json: relatives"),
        (_no_scaffolds, "data", "has scaffolds"),
        (_result("uniqueness", "model"), "evaluations", "uniqueness, model, value"),
        (_result("wasserstein_qed", "model"), "evaluations", "wasserstein_qed, model, value"),
        (_result("gap_mae", "trained"), "evaluations", "gap_mae, trained, value"),
        (_result("dipole_mae", "morgan", "high"), "evaluations", "dipole_mae, morgan, high"),
        (_prediction, "evaluations", "gap_mae, trained"),
        (_easier_truth, "evaluations", "test of data molecules"),
        (_more_novel, "evaluations", "which molecules are known"),
        (_no_evaluation, "evaluations", "cells/chemgpt/w8/n400/seed0 is missing"),
        (_more_evaluations, "evaluations", "cells/chemgpt/w8/n25/seed0 is unknown"),
        (_column_of_an_evaluation, "gathered", "column probe_gap_mae"),
        (_row_of_an_evaluation, "gathered", "column high"),
    ],
)
def test_a_change_with_all_digests_made_anew_is_still_seen(study, draw, records, change, check, named):
    change(study)
    findings = Findings(check, "something")
    try:
        if check == "page":
            check_page(study, {}, findings)
        elif check == "text":
            check_text(study, render(study, draw(study, "svg")), findings)
        elif check == "verdict":
            check_stored(study, "audit/records.json", records, findings)
        else:
            run.RECORDS[check][1](study, read_json(study / "config.json"), findings)
    except ChemscaleError as error:
        findings.differ(str(error))
    assert named in " ".join(findings.record()["evidence"])


def test_a_change_with_all_digests_made_anew_fails_the_audit(study, draw):
    _better_loss_everywhere(study)
    seal(study)
    found = failures(study, draw)
    assert "files" not in found
    assert CELL in found["records"]


def test_sums_are_those_of_sha256sum(sealed):
    assert os.system(f"cd {sealed} && sha256sum --quiet -c audit/SHA256SUMS") == 0


def test_folder_that_is_no_finished_study(tmp_path, study, draw):
    with pytest.raises(InputError, match="no finished study"):
        audit_command(tmp_path / "nowhere", render, draw)
    (tmp_path / "begun").mkdir()
    shutil.copy(study / "config.json", tmp_path / "begun" / "config.json")
    with pytest.raises(InputError, match="no finished study"):
        audit_command(tmp_path / "begun", render, draw)
    # a finished study whose seal is lost is one that fails
    (study / "audit" / "SHA256SUMS").unlink()
    assert "files" in failures(study, draw)


def test_result_is_json(sealed, draw):
    code, result = audit_command(sealed, render, draw)
    assert code == 0
    assert json.loads(json.dumps(result, allow_nan=False))["verdict"] == "ok"
