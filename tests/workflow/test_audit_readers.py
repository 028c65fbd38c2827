"""The audit on a reader's machine: clean studies pass wherever they lie, and hostile folders end soon and in words."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.audit import run
from chemscale.audit.files import check_files
from chemscale.audit.findings import Findings
from chemscale.audit.layout import known_names
from chemscale.errors import InputError
from chemscale.io import read_json, write_json
from chemscale.reporting import figures, page

CELL = "cells/chemgpt/w16/n400/seed0"
COMMAND = "from chemscale.cli import main; main()"
# a process that is started by a large one counts that one's memory as its own in `ru_maxrss`, but not here
MEASURED = f"""
import atexit, re, sys
def tell():
    with open("/proc/self/status") as status:
        print(*re.findall(r"VmHWM:\\s+(\\d+) kB", status.read()), file=sys.stderr)
atexit.register(tell)
{COMMAND}
"""
ESCAPES = "x\naudit: ok\n\x1b[2J\u202e"


def audit(folder, *before, cwd=None, command=COMMAND, **environment):
    """`chemscale audit FOLDER` in a process of its own, after the words of a command that starts it."""
    paths = [str(Path(run.__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [*before, sys.executable, "-c", command, "audit", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


# --- clean studies ----------------------------------------------------------------------------------------------------


def as_it_is(honest, target):
    return Path(shutil.copytree(honest, target))


def zipped(honest, target):
    """Through a zip archive: other times of files, no permissions."""
    with zipfile.ZipFile(target.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(honest.rglob("*")):
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(path.relative_to(honest).as_posix()), path.read_bytes())
    with zipfile.ZipFile(target.with_suffix(".zip")) as archive:
        archive.extractall(target)
    for path in target.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return target


def read_only(honest, target):
    shutil.copytree(honest, target)
    for path in [*target.rglob("*"), target]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return target


def linked(honest, target):
    shutil.copytree(honest, target.with_name(f"{target.name}-elsewhere"))
    target.symlink_to(target.with_name(f"{target.name}-elsewhere"))
    return target


def littered(honest, target):
    shutil.copytree(honest, target)
    for name in (
        ".DS_Store",
        "figures/Thumbs.db",
        f"{CELL}/metrics.json~",
        "tables/.cells.parquet.swp",
        "._config.json",
    ):
        (target / name).write_text("x")
    (target / ".git").mkdir()
    (target / ".git" / "HEAD").write_text("ref: refs/heads/main")
    return target


def touched(honest, target):
    shutil.copytree(honest, target)
    for number, path in enumerate(sorted(target.rglob("*"))):
        os.utime(path, (number, number))
    return target


NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CLEAN = {
    "as it is": (as_it_is, "study", {}),
    "blanks": (as_it_is, "my runs/a study", {}),
    "quotes": (as_it_is, 'it\'s "mine"', {}),
    "unicode": (as_it_is, "Größe/研究/ü", {}),
    "dollar and backslash": (as_it_is, "$HOME\\n`x`;*", {}),
    "leading dash": (as_it_is, "-rf/study", {}),
    "deep": (as_it_is, "/".join(["folder"] * 30), {}),
    "C without UTF-8": (as_it_is, "Größe/研究", NO_UTF8),
    "C without UTF-8, ASCII": (as_it_is, "study", NO_UTF8),
    "POSIX": (as_it_is, "ü x", {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
    "decimal comma": (as_it_is, "study", {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"}),
    "Turkish": (as_it_is, "study", {"LC_ALL": "tr_TR.UTF-8"}),
    "Kathmandu": (as_it_is, "study", {"TZ": "Asia/Kathmandu"}),
    "far west": (as_it_is, "study", {"TZ": "Etc/GMT+12"}),
    "zip": (zipped, "study", {}),
    "zip, blanks, another zone": (zipped, "a b/ü'x", {"TZ": "Pacific/Apia", **NO_UTF8}),
    "read-only": (read_only, "study", {}),
    "link": (linked, "study", {}),
    "other times": (touched, "study", {}),
    "litter": (littered, "study", {}),
    "no home": (as_it_is, "study", {"HOME": "/nonexistent", "MPLCONFIGDIR": "/nonexistent"}),
    "another hash seed": (as_it_is, "study", {"PYTHONHASHSEED": "4711"}),
    "threads": (as_it_is, "study", {"OMP_NUM_THREADS": "2"}),
    "optimised": (as_it_is, "study", {"PYTHONOPTIMIZE": "1"}),
}
QUICK = ("litter", "zip, blanks, another zone")


def check_clean(honest, tmp_path, name):
    copy, place, environment = CLEAN[name]
    target = tmp_path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    done = audit(copy(honest, target), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("audit: ok\n")
    assert {line[:11].strip() for line in done.stdout.splitlines()[:-1]} == {"ok"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", QUICK)
def test_a_clean_study_passes(honest, tmp_path, name):
    check_clean(honest, tmp_path, name)


@pytest.mark.forgeries
@pytest.mark.parametrize("name", [name for name in CLEAN if name not in QUICK])
def test_a_clean_study_passes_anywhere(honest, tmp_path, name):
    check_clean(honest, tmp_path, name)


@pytest.mark.forgeries
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes root, to become another user")
def test_a_clean_study_passes_for_another_user(honest):
    # a folder that others can reach: those of pytest are private
    place = Path("/var/tmp") / f"chemscale-audit-{os.getpid()}"
    try:
        done = audit(read_only(honest, place), *AS_NOBODY, cwd="/", HOME="/nonexistent")
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_litter_is_named_as_what_it_is(honest, tmp_path):
    target = littered(honest, tmp_path / "study")
    findings = Findings("files", "something")
    check_files(target, read_json(target / "config.json"), findings)
    assert findings.differences == []
    (note,) = findings.notes
    assert ".git (of a version control system)" in note
    assert ".DS_Store (of macOS)" in note
    assert "and 1 more" in note
    run.seal(target)
    assert not [line for line in (target / "audit" / "SHA256SUMS").read_text().splitlines() if ".git" in line]


def test_names_of_the_users_own_are_known(study):
    config = read_json(study / "config.json")
    config["data"]["my-data.v2"] = config["data"].pop("molecules")
    known = known_names(config)
    for name in (
        "figures/lengths_my-data.v2.svg",
        "data/my-data.v2/rows.parquet",
        f"{CELL}/checkpoint/finished/metrics.json",
    ):
        assert known(name), name
    for name in ("data/molecules/rows.parquet", "figures/a.html", f"{CELL}/checkpoint/x.json", "cells/a", "tables/x"):
        assert not known(name), name


def test_line_endings_of_a_checkout_are_named_as_such(study):
    for path in study.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".svg", ".html") and path.is_file():
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    findings = Findings("files", "something")
    check_files(study, read_json(study / "config.json"), findings)
    (line,) = findings.differences
    assert "have CRLF at the end of their lines" in line
    assert "core.autocrlf" in line


# --- hostile folders --------------------------------------------------------------------------------------------------


def _replace(root, name):
    path = root / name
    path.unlink()
    return path


def fifo(root):
    os.mkfifo(_replace(root, f"{CELL}/metrics.json"))
    return f"{CELL}/metrics.json: a FIFO"


def endless_link(root):
    _replace(root, f"{CELL}/config.json").symlink_to("/dev/zero")
    return f"{CELL}/config.json: a link"


def link_of_the_config(root):
    _replace(root, "config.json").symlink_to("/dev/zero")
    return "config.json: a link"


def linked_folder(root):
    (root / "cells" / "again").symlink_to("..")
    return "cells/again: a link"


def a_socket(root):
    here = os.getcwd()
    os.chdir(root)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("tables/s")
    finally:
        os.chdir(here)
    return "tables/s: a socket"


def sparse(name):
    def make(root):
        with open(root / name, "ab") as stream:
            stream.truncate(2**40)
        return f"{name}: 1,099,511,627,776 bytes, nearly all of them holes"

    return make


def parquet_bomb(name, rows):
    """A small file of very many equal rows."""

    def make(root):
        path = root / name
        schema = pq.read_schema(path)
        part = pq.read_table(path).slice(0, 1)
        part = pa.concat_tables([part] * 1000).combine_chunks()
        part = pa.concat_tables([part] * 1000).combine_chunks()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for _ in range(rows // 1_000_000):
                writer.write_table(part, row_group_size=1_000_000)
        return name

    return make


def long_texts(root):
    """A long text that stands in every row once it is read."""
    path = root / "data/molecules/rows.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index("group")
    pq.write_table(table.set_column(index, "group", pa.array(["x" * 2**16] * table.num_rows)), path)
    return "data/molecules/rows.parquet: group of 65,536 characters"


def deep_json(root):
    (root / CELL / "metrics.json").write_text("[" * 100_000 + "]" * 100_000)
    return "metrics.json: found"


def many_digits(root):
    path = root / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": ' + "9" * 5000, 1))
    return "a number of 5,000 digits"


def many_cells(root):
    config = read_json(root / "config.json")
    block = {"sizes": ["w8"] * 100, "num_samples": [25] * 1000, "seeds": [0] * 100}
    config["config"]["families"]["chemgpt"]["grid"] = [block]
    write_json(root / "config.json", config)
    return "config.json: cells of the grid: 10000005, 22 follows"


def many_resamples(root):
    config = read_json(root / "config.json")
    config["config"]["fits"]["resamples"] = 10**9
    write_json(root / "config.json", config)
    return "config.json: fits.resamples: 1000000000"


def huge_json(root):
    (root / CELL / "provenance.json").write_text('{"a": "' + "x" * 2**26 + '"}')
    return f"{CELL}/provenance.json: 67,108,873 bytes"


def svg_bomb(root):
    (root / "figures" / "chemgpt_data.svg").write_bytes(b"<svg>" + b"<g/>" * 2**25 + b"</svg>")
    return "figures/chemgpt_data.svg: 134,217,739 bytes"


def speaking_name(root):
    (root / "tables" / ESCAPES.replace("/", "")).write_text("x")
    return "tables/x\\naudit: ok\\n\\x1b[2J\\u202e: no file of this study"


def speaking_link(root):
    (root / "tables" / ESCAPES).symlink_to("/dev/zero")
    return "tables/x\\naudit: ok\\n\\x1b[2J\\u202e: a link"


HOSTILE = {
    "fifo": fifo,
    "link to an endless device": endless_link,
    "config": link_of_the_config,
    "folder in itself": linked_folder,
    "socket": a_socket,
    "sparse weights": sparse(f"{CELL}/checkpoint/weights.safetensors"),
    "sparse metrics": sparse(f"{CELL}/metrics.json"),
    "sparse page": sparse("report/index.html"),
    "sparse table": sparse("tables/cells.parquet"),
    "table of many rows": parquet_bomb("data/molecules/rows.parquet", 2_000_000),
    "long texts": long_texts,
    "deep JSON": deep_json,
    "digits": many_digits,
    "cells": many_cells,
    "resamples": many_resamples,
    "huge JSON": huge_json,
    "SVG": svg_bomb,
    "name": speaking_name,
    "link's name": speaking_link,
}
# in place of a table of results; a check of the records meets it
OF_TABLES = {
    "clusters": parquet_bomb(f"{CELL}/test_clusters.parquet", 100_000_000),
    "cells": parquet_bomb("tables/cells.parquet", 10_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_named(study, name):
    named = HOSTILE[name](study)
    if name in ("name", "deep JSON"):
        checked = Findings("files", "something")
        run.seal(study)
        check = check_files if name == "name" else run.RECORDS["values"][1]
        try:
            check(study, read_json(study / "config.json"), checked)
        except Exception as error:
            checked.differ(f"{type(error).__name__}: {error}")
        evidence = checked.record()["evidence"]
    else:
        code, result = run.audit_command(study, page.render, figures.draw)
        assert code == 1
        assert result["checks"][0]["verdict"] == "failed" or result["checks"][1]["verdict"] == "failed"
        assert all(check["verdict"] == "not checked" for check in result["checks"][2:])
        evidence = [line for check in result["checks"][:2] for line in check["evidence"]]
    assert any(named in line for line in evidence), evidence
    assert all(line.isprintable() for line in evidence)


@pytest.mark.forgeries
@pytest.mark.parametrize("name", [*HOSTILE, *OF_TABLES])
def test_a_hostile_folder_ends_soon_and_in_little_memory(study, name):
    named = {**HOSTILE, **OF_TABLES}[name](study)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = audit(study, command=MEASURED)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "audit: ok" not in done.stdout.splitlines()
    assert done.stdout.endswith("audit: failed\n")
    assert named in done.stdout
    assert "Traceback" not in done.stderr
    # of the processor: a machine that is busy elsewhere takes longer by the clock
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert int(done.stderr.split()[-1]) < 1_000_000  # kB


def test_what_the_locale_cannot_print_stands_as_an_escape(study):
    os.mkfifo(study / "tables" / "ü")
    done = audit(study, **NO_UTF8)
    assert done.returncode == 1
    assert "tables/\\udcc3\\udcbc: a FIFO" in done.stdout
    (study / "tables" / "ü").unlink()
    config = read_json(study / "config.json")
    config["config"]["fits"]["resamples"] = "zwölf"
    write_json(study / "config.json", config)
    done = audit(study, **NO_UTF8)
    assert done.returncode == 1
    assert "fits.resamples: 'zw\\xf6lf'" in done.stdout
    assert done.stderr == ""


def test_what_is_no_study_ends_with_code_2(tmp_path):
    os.mkfifo(tmp_path / "audit")
    done = audit(tmp_path / ESCAPES)
    assert done.returncode == 2
    assert done.stderr.startswith("chemscale: audit ")
    assert "no finished study" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for folder in (tmp_path, tmp_path / "audit"):
        with pytest.raises(InputError, match="no finished study"):
            run.audit_command(folder, page.render, figures.draw)
