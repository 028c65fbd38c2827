"""Sources: published tables as they are published, files of one's own with all their faults, and a corpus of both."""

import csv
import gzip
import hashlib
import importlib.metadata
import io
import json
import resource
import socket
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from chemscale.catalogue import CATALOGUE, Member
from chemscale.data import sources
from chemscale.errors import DataError

OFFLINE = {"offline": True, "mirror": None}
BAD = Path(__file__).resolve().parents[2] / "data" / "bad"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)


def rows_of(path, column, cache):
    located = sources.locate(
        {"kind": "molecules", "source": "file", "path": str(path), "column": column}, cache, OFFLINE
    )
    return list(sources.read(located))


# the identifier table of chemicals


def test_the_pinned_table_is_read_whole_and_without_its_package():
    code = (
        "import sys; from chemscale.data import sources; rows = list(sources.chemicals());"
        "print(len(rows), len({cid for cid, _ in rows}), all(s for _, s in rows), 'chemicals' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    rows, distinct, filled, imported = done.stdout.split()
    assert int(rows) == int(distinct) == CATALOGUE["chemicals"].rows
    assert (filled, imported) == ("True", "False")


def test_compounds_are_those_of_their_pubchem_ids():
    # asparagine without stereo and gallic acid, by PubChem's own numbers
    expected = {236: "NC(=O)CC(N)C(=O)O", 370: "OC(=O)c1cc(O)c(O)c(O)c1"}
    expected = {cid: Chem.CanonSmiles(smiles) for cid, smiles in expected.items()}
    found = {cid: Chem.CanonSmiles(smiles) for cid, smiles in sources.chemicals() if cid in expected}
    assert found == expected


def test_the_version_is_the_installed_one():
    assert importlib.metadata.version("chemicals") == CATALOGUE["chemicals"].version


def test_another_table_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    pinned = replace(CATALOGUE["chemicals"], sha256="0" * 64)
    monkeypatch.setitem(CATALOGUE, "chemicals", pinned)
    remedy = r"sha256 3b9aac5ae8d2.*pip install --force-reinstall chemicals==1\.5\.2"
    with pytest.raises(DataError, match=remedy):
        next(sources.chemicals())
    with pytest.raises(DataError, match=remedy):
        sources.locate({"kind": "molecules", "source": "chemicals"}, tmp_path, OFFLINE)
    monkeypatch.setitem(CATALOGUE, "chemicals", replace(pinned, file="none.tsv"))
    with pytest.raises(DataError, match="no such package or file"):
        next(sources.chemicals())


def test_the_table_is_located_without_any_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    located = sources.locate(
        {"kind": "molecules", "source": "chemicals", "path": None, "column": None}, tmp_path, OFFLINE
    )
    assert json.loads(json.dumps(located)) == located
    assert located["record"] == sources.record({"source": "chemicals"})
    assert {"name", "version", "file", "sha256", "licence", "citation", "distribution"} <= set(located["record"])
    assert list(sources.read(located)) == [smiles for _, smiles in sources.chemicals()]


# other published formats


@pytest.fixture
def moses(tmp_path, monkeypatch):
    """A small wheel of the published form, and the catalogue's entry as it would be for it."""
    tables = {
        "moses/dataset/data/train.csv.gz": b"SMILES\nCCO\nCC\n",
        "moses/dataset/data/test.csv.gz": b"SMILES\nC\n",
        "moses/dataset/data/test_scaffolds.csv.gz": b"SMILES\nc1ccccc1\n",
    }
    packed = {name: gzip.compress(content, mtime=0) for name, content in tables.items()}
    entry = CATALOGUE["moses"]
    assert [member.path for member in entry.members] == list(tables)
    folder = tmp_path / "own"
    folder.mkdir()
    with zipfile.ZipFile(folder / entry.file, "w") as archive:
        for name, content in packed.items():
            archive.writestr(name, content)
        archive.writestr("moses/__init__.py", "raise AssertionError('never imported')")
    wanted = tuple(Member(name, hashlib.sha256(content).hexdigest()) for name, content in packed.items())
    monkeypatch.setitem(CATALOGUE, "moses", replace(entry, members=wanted, sha256=None, size=None))
    return folder


def test_moses_is_read_out_of_its_wheel(moses, tmp_path):
    section = {"kind": "molecules", "source": "moses", "path": str(moses), "column": None}
    located = sources.locate(section, tmp_path / "cache", OFFLINE)
    assert list(sources.read(located)) == ["CCO", "CC", "C", "c1ccccc1"]
    assert json.loads(json.dumps(located)) == located
    record = located["record"]
    assert record["distribution"] == "molsets==0.3.1"
    assert record["sha256"] == hashlib.sha256(next(moses.iterdir()).read_bytes()).hexdigest()
    assert record["members"] == {member.path: member.sha256 for member in CATALOGUE["moses"].members}
    assert str(tmp_path) not in json.dumps(record), "the same on every machine"
    assert sources.locate(section, tmp_path / "cache", OFFLINE) == located


def test_another_moses_than_the_published_one_is_refused(moses, tmp_path, monkeypatch):
    entry = CATALOGUE["moses"]
    monkeypatch.setitem(CATALOGUE, "moses", replace(entry, members=(Member(entry.members[0].path, "0" * 64),)))
    with pytest.raises(DataError, match=r"take moses/dataset/data/train\.csv\.gz out of .* instead of 000"):
        sources.locate({"kind": "molecules", "source": "moses", "path": str(moses)}, tmp_path / "cache", OFFLINE)


def test_pubchem10m_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "pubchem_10m.txt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pubchem-10m.txt", "CCO\nCC\n" * 50_000)
    located = sources.locate(
        {"kind": "molecules", "source": "pubchem10m", "path": str(tmp_path)}, tmp_path / "cache", OFFLINE
    )
    assert list(sources.read(located)) == ["CCO", "CC"] * 50_000
    assert not list((tmp_path / "cache").rglob("*.txt"))
    assert located["record"]["urls"] == list(CATALOGUE["pubchem10m"].urls)


def test_pubchem_is_the_snapshot_that_its_md5_names(tmp_path, monkeypatch):
    content = gzip.compress(b"1\tCC(=O)OC(CC(=O)[O-])C[N+](C)(C)C\n2\tC\n")
    (tmp_path / "CID-SMILES.gz").write_bytes(content)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    located = sources.locate({"kind": "molecules", "source": "pubchem"}, tmp_path / "cache", OFFLINE)
    assert list(sources.read(located)) == ["CC(=O)OC(CC(=O)[O-])C[N+](C)(C)C", "C"]
    assert located["record"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert located["record"]["md5"] == hashlib.md5(content).hexdigest()


def test_a_source_that_is_none_is_named(tmp_path):
    for name in ("zinc", "rmd17"):
        with pytest.raises(
            DataError, match=f"molecules of the source '{name}': found no such source; name file or chem"
        ):
            sources.locate({"kind": "molecules", "source": name}, tmp_path, OFFLINE)
    located = {"files": [str(tmp_path / "x")], "parser": "xyz", "column": None, "member": None, "record": {}}
    with pytest.raises(DataError, match="the format 'xyz'"):
        list(sources.read(located))


def test_every_source_of_molecules_has_a_reader(tmp_path):
    for entry in CATALOGUE.values():
        if entry.domain == "language":
            located = {"files": [str(tmp_path / "none")], "parser": entry.parser, "column": "x", "member": "x"}
            # not the error of an unknown format
            with pytest.raises((DataError, FileNotFoundError), match=r"[Nn]o such file"):
                list(sources.read(located))


# files of one's own


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("bom.csv", b"\xef\xbb\xbfsmiles,name\nCCO,ethanol\nC,methane\n", "smiles"),
        ("crlf.csv", b"name,smiles\r\nethanol,CCO\r\nmethane,C\r\n", "smiles"),
        ("tabs.tsv", b"name\tsmiles\nethanol\tCCO\nmethane\tC\n", "smiles"),
        ("quoted.csv", b'name,smiles\n"a, b","CCO"\nmethane,C\n', "smiles"),
        ("quotes.tsv", b'name\tsmiles\n5"-a\tCCO\nmethane\tC\n', "smiles"),
        ("names.smi", b"CCO ethanol\nC\tmethane\n", None),
        ("UPPER.TXT", b"CCO\nC\n", None),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_ones_own(tmp_path, name, content, column, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert list(sources.own_file(path, column)) == ["CCO", "C"]
    section = {"kind": "molecules", "source": "file", "path": str(path), "column": column}
    located = sources.locate(section, tmp_path / "cache", OFFLINE)
    assert list(sources.read(located)) == ["CCO", "C"]
    assert json.loads(json.dumps(located)) == located
    assert located["record"] == {
        "name": path.name,
        "version": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "the owner's",
        "citation": "a file of one's own",
    }


def test_a_row_without_its_column_is_an_empty_row(tmp_path):
    path = tmp_path / "short.csv"
    path.write_bytes(b"name,smiles\nethanol\nmethane,C\n")
    assert list(sources.own_file(path, "smiles")) == ["", "C"]


def test_rows_that_cannot_be_read_are_told_and_leave_the_others(tmp_path):
    path = tmp_path / "odd.csv"
    long = b"C" * 200_000
    path.write_bytes(b'name,smiles\n"a"b,CC\nmethane,C\nx,' + long + b"\n\xe9thane,CC\nx,C\xe9\nwater,O\n")
    found = list(sources.own_file(path, "smiles"))
    assert found[:4] == [None, "C", None, "CC"]
    assert found[5:] == ["O"]
    assert not found[4].isascii()


def test_tables_are_read_as_the_csv_module_reads_them(tmp_path):
    odd = [
        "a,b",
        'say "x"',
        "",
        " C ",
        "two\nlines",
        "N#N",
        "\u00e9",
        "tab\tbed",
        "C\r\nC",
        '"',
        ",",
        "\x0bC\x1cC\x85C",
    ]
    rows = [{"name": left, "smiles": right} for left in odd for right in odd]
    for name, dialect in (("t.csv", "excel"), ("t.tsv", "excel-tab")):
        path = tmp_path / name
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["name", "smiles"], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
        assert list(sources.own_file(path, "smiles")) == [row["smiles"] for row in rows]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["long.smi", "long.csv", "long.smi.gz"])
def test_a_line_of_10_mb_is_one_row_and_is_not_held(tmp_path, name, end):
    head = b"smiles" + end if ".csv" in name else b""
    content = head + b"CCO" + end + b"C" * 10_000_000 + end + b"CC" + end + b"N" * 1_500_000 + end + b"O"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    del content
    tracemalloc.start()
    assert list(sources.own_file(path, "smiles")) == ["CCO", None, "CC", None, "O"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


@pytest.mark.parametrize("shift", range(4))
def test_lines_are_whole_wherever_a_block_ends(tmp_path, shift, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK", 7)
    expected = ["C" * number for number in range(1, 30)]
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "blocks.smi"
        path.write_bytes(("C" * shift + end + end.join(expected) + end).encode())
        assert list(sources.own_file(path, None)) == ["C" * shift, *expected]


def test_a_long_line_within_quotes_is_named(tmp_path):
    path = tmp_path / "long.csv"
    path.write_bytes(b'name,smiles\n"a\n' + b"C" * 2_000_000 + b'",C\nx,C\n')
    with pytest.raises(DataError, match=r"a quote in line 2 that is not closed there \(line 3 has more than 1 MiB\)"):
        list(sources.own_file(path, "smiles"))
    path.write_bytes(b"C" * 2_000_000 + b"\nC\n")
    with pytest.raises(DataError, match="a header that is none"):
        list(sources.own_file(path, "smiles"))


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path):
    path = tmp_path / "quote.csv"
    path.write_bytes(b'smiles\n"CC\n' + b"CCO\n" * 1_000_000)
    with pytest.raises(DataError, match=r"a quote in line 2 .*field larger than field limit"):
        list(sources.own_file(path, "smiles"))


def test_memory_does_not_grow_with_a_file(tmp_path):
    def reading(rows):
        path = tmp_path / "many.csv.gz"
        with gzip.open(path, "wb", 1) as stream:
            stream.write(b"smiles,name\n")
            for _ in range(rows // 1000):
                stream.write(b"CCO,ethanol\n" * 1000)
        tracemalloc.start()
        assert sum(1 for _ in sources.own_file(path, "smiles")) == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert reading(300_000) < reading(100_000) + 100_000


def test_gzip_of_much_from_little_is_read_in_flat_memory(tmp_path):
    path = tmp_path / "bomb.smi.gz"
    with gzip.open(path, "wb", 1) as stream:
        for _ in range(100):
            stream.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list(sources.own_file(path, None)) == [None]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_parquet_of_ones_own(tmp_path):
    path = tmp_path / "own.parquet"
    for kind in (pa.string(), pa.large_string()):
        pq.write_table(
            pa.table({"smiles": pa.array(["CCO", None, "C", "C" * 2_000_000], kind), "x": [1, 2, 3, 4]}), path
        )
        assert list(sources.own_file(path, "smiles")) == ["CCO", "", "C", None]
    with pytest.raises(DataError, match="found the columns smiles, x"):
        list(sources.own_file(path, "SMILES"))


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("wrong.csv", b"a,b\n1,2\n", "smiles", r"column 'smiles' of .*wrong\.csv: found the columns a, b"),
        ("unnamed.csv", b"a,b\n1,2\n", None, "found the columns a, b"),
        ("blank.csv", b"\n\n", "smiles", r"found the columns \(none\)"),
        ("empty.csv", b"", "smiles", "found an empty file"),
        ("header.csv", b"smiles\n", "smiles", "found no rows"),
        ("empty.smi", b"", None, "found an empty file"),
        ("quote.csv", b'smiles\nCCO\n"CC\nCO\n', "smiles", "quote in line 3 .*unexpected end of data"),
        ("stray.csv", b'"a"b,smiles\nC,C\n', "smiles", "a header that is none"),
        ("cut.parquet", b"PAR1 and no more", "smiles", "no Parquet"),
        ("empty.parquet", b"", "smiles", "found an empty file"),
        ("page.parquet", b"<html>", "smiles", "an HTML page"),
        ("book.xlsx", b"PK", "smiles", r"kind '\.xlsx'"),
        ("none.gz", b"PK", "smiles", r"kind '\.gz'"),
        ("bare", b"CC", None, "kind ''"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, column, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        rows_of(path, column, tmp_path / "cache")
    assert str(path) in str(caught.value)


def test_parquet_that_holds_no_text_is_named(tmp_path):
    path = tmp_path / "own.parquet"
    for values, message in (([b"CC"], "values of type binary"), (pa.array([], pa.string()), "found no rows")):
        pq.write_table(pa.table({"smiles": values}), path)
        with pytest.raises(DataError, match=message):
            list(sources.own_file(path, "smiles"))
    pq.write_table(pa.table({"smiles": ["CCO"] * 100_000}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="no Parquet"):
        list(sources.own_file(path, "smiles"))


def test_a_gzip_file_cut_anywhere_never_passes_as_whole(tmp_path):
    whole = gzip.compress(b"".join(b"%s\n" % (b"C" * (number % 40 + 1)) for number in range(200)))
    path = tmp_path / "cut.smi.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"an empty file|no gzip|a damaged or incomplete file after about"):
            list(sources.own_file(path, None))
    path.write_bytes(whole)
    assert len(list(sources.own_file(path, None))) == 200


def test_the_rows_before_a_damage_are_counted(tmp_path):
    noise = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() + b"\n" for number in range(20_000))
    whole = gzip.compress(noise)
    path = tmp_path / "cut.smi.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"after about (9,9|10,0)\d\d rows"):
        list(sources.own_file(path, None))


def test_a_compression_that_is_not_known_is_told(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pubchem-10m.txt", "CC\n")
    content = bytearray(packed.getvalue())
    for at in (8, content.index(b"PK\x01\x02") + 10):
        content[at] = 99
    (tmp_path / "pubchem_10m.txt.zip").write_bytes(content)
    located = sources.locate(
        {"kind": "molecules", "source": "pubchem10m", "path": str(tmp_path)}, tmp_path / "cache", OFFLINE
    )
    with pytest.raises(DataError, match=r"read pubchem-10m\.txt in .*compression"):
        list(sources.read(located))


def test_the_version_of_ones_own_file_is_its_content(tmp_path):
    path = tmp_path / "own.smi"
    versions = set()
    for text in ("CCO", "CCCC"):
        path.write_text(text)
        located = sources.locate(
            {"kind": "molecules", "source": "file", "path": str(path), "column": None}, tmp_path / "cache", OFFLINE
        )
        versions.add(located["record"]["version"])
    assert len(versions) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: found no such file"):
        list(sources.own_file(tmp_path / "none.csv", "smiles"))
    with pytest.raises(DataError, match=r"none\.csv: found no such file"):
        rows_of(tmp_path / "none.csv", "smiles", tmp_path / "cache")


# the corpus of bad files


CASES = json.loads((BAD / "cases.json").read_text(encoding="utf-8"))


def test_the_corpus_is_whole_and_small():
    files = [path for path in BAD.iterdir() if path.is_file() and path.suffix != ".json"]
    assert {case["file"] for case in CASES} == {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 20_000


@pytest.mark.parametrize("case", CASES, ids=[case["file"] for case in CASES])
def test_bad_files_are_refused_or_their_bad_rows_told(case, tmp_path):
    section = {
        "kind": "molecules",
        "source": case.get("source", "file"),
        "path": str(BAD / case["file"]),
        "column": case.get("column"),
    }

    def reading():
        return list(sources.read(sources.locate(section, tmp_path, OFFLINE)))

    expected = case["expect"]
    if "error" in expected:
        with pytest.raises(DataError) as caught:
            reading()
        assert expected["error"] in str(caught.value)
        assert str(BAD / case["file"]) in str(caught.value)
    else:
        found = reading()
        rejected = expected["rejected"]
        assert len(found) == expected["rows"]
        assert found.count(None) == rejected.get("unreadable_row", 0)
        assert found.count("") == rejected.get("empty", 0)
