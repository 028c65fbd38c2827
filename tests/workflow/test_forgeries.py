"""Forged studies: each forgery is named by the check that should see it, after all that can be made again was."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import forgeries as forged_by
from forgeries import OF_RECORDS, OF_THE_FOLDER
from forging import all_cells, keep_copies, remade

from chemscale.audit import run
from chemscale.audit.files import check_files
from chemscale.audit.findings import Findings
from chemscale.audit.molecules import check_molecules
from chemscale.audit.pictures import check_pictures
from chemscale.audit.sources import check_sources
from chemscale.audit.verdicts import check_stored
from chemscale.catalogue import CATALOGUE
from chemscale.io import read_json, write_json
from chemscale.reporting import figures, page

CHECKS = {name: check for name, (_, check) in run.RECORDS.items()} | {"molecules": check_molecules}


@pytest.fixture(scope="module")
def report(honest):
    """Figures and page of the honest study, made once."""
    drawings = {"svg": figures.draw(honest, "svg"), "png": figures.draw(honest, "png")}
    return drawings, page.render(honest, drawings["svg"])


@pytest.fixture(scope="module")
def records(honest):
    """The audit of the honest study's records."""
    return run.audit(honest)


def evidence(check, root):
    """What a check names, as in the whole audit: an error that ends it is named, too."""
    findings = Findings("check", "something")
    try:
        check(root, read_json(root / "config.json"), findings)
    except Exception as error:
        findings.differ(f"{type(error).__name__}: {error}")
    return findings.record()["evidence"] if findings.record()["verdict"] == "failed" else []


def test_the_honest_study_passes_each_check_that_forgeries_are_named_by(honest):
    for name in {check for _, check, _ in OF_RECORDS.values()}:
        assert evidence(CHECKS[name], honest) == [], name


@pytest.mark.parametrize("name", OF_RECORDS)
def test_a_forged_record_is_named(study, name):
    forge, check, named = OF_RECORDS[name]
    forge(study)
    found = evidence(CHECKS[check], study)
    assert any(named in line for line in found), found


@pytest.mark.parametrize("name", OF_THE_FOLDER)
def test_a_forged_file_beside_the_records_is_named(study, name, report, records):
    forge, _, check, named = OF_THE_FOLDER[name]
    forge(study)
    drawings, text = report

    def checked(root, config, findings):
        if check == "pictures":
            check_pictures(root, text, drawings, findings)
        elif check == "verdict":
            check_stored(root, "audit/records.json", records, findings)
        else:
            run.seal(root)
            check_files(root, config, findings)

    found = evidence(checked, study)
    assert any(named in line for line in found), found


def test_a_key_twice_in_the_config_ends_the_audit(study):
    path = study / "config.json"
    path.write_text(path.read_text().replace("{", '{"waived": [], ', 1))
    result = run.audit(study)
    failed = {check["name"]: check["evidence"] for check in result["checks"] if check["verdict"] == "failed"}
    assert list(failed) == ["study"]
    assert "the key 'waived' stands twice" in failed["study"][0]


def test_runs_that_were_set_aside_are_noted(study):
    shutil.copytree(study / forged_by.PAIR[0], study / "former/20260101T000000000000" / forged_by.PAIR[0])
    findings = Findings("grid", "something")
    run.RECORDS["grid"][1](study, read_json(study / "config.json"), findings)
    assert not findings.differences
    assert findings.record()["evidence"] == [
        "former/ holds 1 finished runs that the config no longer has: nothing here tells why"
    ]


def test_copies_that_were_deleted_are_noted(study):
    for cell in all_cells(study):
        shutil.rmtree(study / cell.path / "checkpoint")
    findings = Findings("copies", "something")
    run.RECORDS["copies"][1](study, read_json(study / "config.json"), findings)
    assert not findings.differences
    assert [note.partition(" in ")[0] for note in findings.notes] == [
        "24 runs keep no copy of their records",
        "24 runs keep no copy of their weights",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"rows_in": 70_801, "rejected": {}}, "rows_in, of chemicals: 70801, 71347"),
        ({"source": {"licence": "CC0-1.0"}}, "source.licence"),
        ({"source": {"sha256": "0" * 64}}, "source.sha256"),
        ({"source": {"citation": "me"}}, "source.citation"),
        ({"source": {"version": "9"}}, "source.version"),
        ({"rejected": {"unparsable": 30_000}}, "30,000 rows, where the config allows 3,567"),
    ],
)
def test_facts_of_a_published_source_are_the_catalogues(tmp_path, change, named):
    entry = CATALOGUE["chemicals"]
    source = {
        name: getattr(entry, name) for name in ("name", "version", "file", "rows", "sha256", "licence", "citation")
    }
    manifest = {
        "source": source | change.get("source", {}),
        "settings": {"source": "chemicals", "kind": "molecules"},
        "domain": "language",
        "rows_in": 71_347,
        "rejected": {"unparsable": 546},
        "splits": {"train": {"tokens": 10, "rows": 1}},
        "elements": {"train": {"C": 8}},
    } | {key: value for key, value in change.items() if key != "source"}
    (tmp_path / "data" / "m").mkdir(parents=True)
    write_json(tmp_path / "data" / "m" / "manifest.json", manifest)
    section = {"source": "chemicals", "max_reject_share": 0.05}
    findings = Findings("sources", "something")
    check_sources(tmp_path, {"data": {"m": {}}, "config": {"data": {"m": section}}}, findings)
    assert len(findings.differences) == (named is not None), findings.differences
    assert named is None or named in findings.differences[0]


OTHER = {"matplotlib": "0.0"}


def test_figures_of_another_matplotlib_are_not_checked_but_hold_nothing_else(study, report):
    drawings, text = report
    write_json(study / "figures" / "versions.json", OTHER)
    path = study / "report" / "index.html"
    found = pictures(study, text, drawings)
    assert found["verdict"] == "not checked"
    assert "matplotlib 0.0" in found["evidence"][0]
    here = path.read_text()
    begin = here.index('<meta name="figures-drawn-by"')
    end = here.index(">", begin) + 1
    other = here[:begin] + '<meta name="figures-drawn-by" content="{&#34;matplotlib&#34;:&#34;0.0&#34;}">' + here[end:]
    path.write_text(other)
    assert pictures(study, text, drawings)["verdict"] == "not checked"
    for inside, named in (
        ("<script>1</script>", "'script'"),
        ("<foreignObject><p>false</p></foreignObject>", "'foreignObject'"),
        ("<g onclick='x()'/>", "onclick"),
        ("<use href='https://x'/>", "href"),
        ("<g style='fill: url(https://x)'/>", "style"),
        ("<!-- --><g/>", "a comment"),
        ("<div/>", "an element 'div'"),
        ("<STYLE>*{}</STYLE>", "'STYLE'"),
        ("<svg/>", "an element 'svg'"),
        ("<image href='#x'/>", "'image'"),
    ):
        path.write_text(other.replace("</svg>", f"{inside}</svg>", 1))
        found = pictures(study, text, drawings)
        assert found["verdict"] == "failed", inside
        assert "report/index.html: drawing 1" in found["evidence"][0], found
        assert named in found["evidence"][0], found


def pictures(root, text, drawings):
    findings = Findings("pictures", "something")
    check_pictures(root, text, drawings, findings)
    return findings.record()


def failures(root):
    code, result = run.audit_command(root, page.render, figures.draw)
    assert code == (1 if result["verdict"] == "failed" else 0)
    return {check["name"]: check["evidence"] for check in result["checks"] if check["verdict"] == "failed"}


@pytest.mark.forgeries
@pytest.mark.parametrize("name", [name for name in OF_RECORDS if name not in forged_by.BROKEN])
def test_a_study_made_again_around_a_forged_record_fails(study, name):
    forge, check, named = OF_RECORDS[name]
    forge(study)
    remade(study)
    found = failures(study)
    assert "files" not in found
    assert any(named in line for line in found[check]), found


@pytest.mark.forgeries
@pytest.mark.parametrize("name", OF_THE_FOLDER)
def test_a_study_sealed_again_around_a_forged_file_fails(study, name):
    forge, page_after, check, named = OF_THE_FOLDER[name]
    forge(study)
    if page_after:
        page.write_page(study)
    run.seal(study)
    found = failures(study)
    assert any(named in line for line in found[check]), found


@pytest.mark.forgeries
def test_a_last_audit_of_claims_is_named(study):
    path = study / "audit" / "audit.json"
    written = read_json(path)
    for claims in ({"verdict": "ok", "claims": ["retrained"]}, {**written, "verdict": "excellent"}, {}):
        write_json(path, claims)
        assert list(failures(study)) == ["last verdict"], claims
    path.unlink()
    assert list(failures(study)) == ["last verdict"]


@pytest.mark.forgeries
def test_the_honest_study_made_again_passes(study):
    for cell in all_cells(study):
        keep_copies(study, cell.path)
    remade(study)
    run.write_final(study, page.render, figures.draw)
    assert failures(study) == {}
