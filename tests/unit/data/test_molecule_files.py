"""Molecules, row by row: files of one's own with all their faults, and a corpus of bad ones."""

import csv
import gzip
import hashlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.data import molecule_files, sources
from chemscale.data.molecule_files import Unreadable
from chemscale.errors import DataError

OFFLINE = {"offline": True, "mirror": None}
BAD = Path(__file__).resolve().parents[2] / "data" / "bad"
UNREADABLE, STRAY_QUOTE = Unreadable("unreadable_row"), Unreadable("stray_quote")


def rows_of(path, column, cache):
    located = sources.locate(
        {"kind": "molecules", "source": "file", "path": str(path), "column": column}, cache, OFFLINE
    )
    return list(molecule_files.read(located))


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
    assert list(molecule_files.own_file(path, column)) == ["CCO", "C"]
    section = {"kind": "molecules", "source": "file", "path": str(path), "column": column}
    located = sources.locate(section, tmp_path / "cache", OFFLINE)
    assert list(molecule_files.read(located)) == ["CCO", "C"]
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
    assert list(molecule_files.own_file(path, "smiles")) == ["", "C"]


def test_rows_that_cannot_be_read_are_told_and_leave_the_others(tmp_path):
    path = tmp_path / "odd.csv"
    long = b"C" * 200_000
    path.write_bytes(b'name,smiles\n"a"b,CC\nmethane,C\nx,' + long + b"\n\xe9thane,CC\nx,C\xe9\nwater,O\n")
    found = list(molecule_files.own_file(path, "smiles"))
    assert found[:4] == [STRAY_QUOTE, "C", UNREADABLE, "CC"]
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
        assert list(molecule_files.own_file(path, "smiles")) == [row["smiles"] for row in rows]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["long.smi", "long.csv", "long.smi.gz"])
def test_a_line_of_10_mb_is_one_row_and_is_not_held(tmp_path, name, end):
    head = b"smiles" + end if ".csv" in name else b""
    content = head + b"CCO" + end + b"C" * 10_000_000 + end + b"CC" + end + b"N" * 1_500_000 + end + b"O"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    del content
    tracemalloc.start()
    assert list(molecule_files.own_file(path, "smiles")) == ["CCO", UNREADABLE, "CC", UNREADABLE, "O"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


@pytest.mark.parametrize("shift", range(4))
def test_lines_are_whole_wherever_a_block_ends(tmp_path, shift, monkeypatch):
    monkeypatch.setattr(molecule_files, "_BLOCK", 7)
    expected = ["C" * number for number in range(1, 30)]
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "blocks.smi"
        path.write_bytes(("C" * shift + end + end.join(expected) + end).encode())
        assert list(molecule_files.own_file(path, None)) == ["C" * shift, *expected]


def test_a_long_line_within_quotes_is_a_row_of_its_own(tmp_path):
    path = tmp_path / "long.csv"
    path.write_bytes(b'name,smiles\n"a\n' + b"C" * 2_000_000 + b'",C\n"x",C\n')
    assert list(molecule_files.own_file(path, "smiles")) == [STRAY_QUOTE, UNREADABLE, "C"]
    path.write_bytes(b"C" * 2_000_000 + b"\nC\n")
    with pytest.raises(DataError, match="a header that is none"):
        list(molecule_files.own_file(path, "smiles"))


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path):
    path = tmp_path / "quote.csv"
    path.write_bytes(b'smiles\n"CC\n' + b"CCO\n" * 300_000)
    found = list(molecule_files.own_file(path, "smiles"))
    assert (found[0], len(found), set(found[1:])) == (STRAY_QUOTE, 300_001, {"CCO"})


def test_memory_does_not_grow_with_a_file(tmp_path):
    def reading(rows):
        path = tmp_path / "many.csv.gz"
        with gzip.open(path, "wb", 1) as stream:
            stream.write(b"smiles,name\n")
            for _ in range(rows // 1000):
                stream.write(b"CCO,ethanol\n" * 1000)
        tracemalloc.start()
        assert sum(1 for _ in molecule_files.own_file(path, "smiles")) == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert reading(200_000) < reading(100_000) + 100_000


def test_parquet_of_ones_own(tmp_path):
    path = tmp_path / "own.parquet"
    for kind in (pa.string(), pa.large_string()):
        pq.write_table(
            pa.table({"smiles": pa.array(["CCO", None, "C", "C" * 2_000_000], kind), "x": [1, 2, 3, 4]}), path
        )
        assert list(molecule_files.own_file(path, "smiles")) == ["CCO", "", "C", UNREADABLE]
    with pytest.raises(DataError, match="found the columns smiles, x"):
        list(molecule_files.own_file(path, "SMILES"))


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("wrong.csv", b"a,b\n1,2\n", "smiles", r"column 'smiles' of .*wrong\.csv: found the columns a, b"),
        ("unnamed.csv", b"a,b\n1,2\n", None, "found the columns a, b"),
        ("blank.csv", b"\n\n", "smiles", r"found the columns \(none\)"),
        ("empty.csv", b"", "smiles", "found an empty file"),
        ("header.csv", b"smiles\n", "smiles", "found no rows"),
        ("empty.smi", b"", None, "found an empty file"),
        ("stray.csv", b'"a"b,smiles\nC,C\n', "smiles", "a header that is none"),
        ("cut.parquet", b"PAR1 and no more", "smiles", "no readable Parquet"),
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
            list(molecule_files.own_file(path, "smiles"))
    pq.write_table(pa.table({"smiles": ["CCO"] * 100_000}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="no readable Parquet"):
        list(molecule_files.own_file(path, "smiles"))


def test_a_gzip_file_cut_anywhere_never_passes_as_whole(tmp_path):
    whole = gzip.compress(b"".join(b"%s\n" % (b"C" * (number % 40 + 1)) for number in range(200)))
    path = tmp_path / "cut.smi.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"an empty file|no gzip|a damaged or incomplete file after about"):
            list(molecule_files.own_file(path, None))
    path.write_bytes(whole)
    assert len(list(molecule_files.own_file(path, None))) == 200


def test_the_rows_before_a_damage_are_counted(tmp_path):
    noise = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() + b"\n" for number in range(20_000))
    whole = gzip.compress(noise)
    path = tmp_path / "cut.smi.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"after about (9,9|10,0)\d\d rows"):
        list(molecule_files.own_file(path, None))


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
        list(molecule_files.read(located))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: found no such file"):
        list(molecule_files.own_file(tmp_path / "none.csv", "smiles"))
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
        return list(molecule_files.read(sources.locate(section, tmp_path, OFFLINE)))

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
        for reason in ("unreadable_row", "stray_quote"):
            assert found.count(Unreadable(reason)) == rejected.get(reason, 0)
        assert found.count("") == rejected.get("empty", 0)
