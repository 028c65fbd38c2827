"""Sources: the pinned table as it was published, and files of one's own with all their faults."""

import importlib.metadata
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from chemscale.data import sources
from chemscale.errors import DataError


def test_the_pinned_table_is_read_whole_and_without_its_package():
    code = (
        "import sys; from chemscale.data import sources; rows = list(sources.chemicals());"
        "print(len(rows), len({cid for cid, _ in rows}), all(s for _, s in rows), 'chemicals' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    rows, distinct, filled, imported = done.stdout.split()
    assert int(rows) == int(distinct) == sources.SOURCES["chemicals"].rows
    assert (filled, imported) == ("True", "False")


def test_compounds_are_those_of_their_pubchem_ids():
    # asparagine without stereo and gallic acid, by PubChem's own numbers
    expected = {236: "NC(=O)CC(N)C(=O)O", 370: "OC(=O)c1cc(O)c(O)c(O)c1"}
    expected = {cid: Chem.CanonSmiles(smiles) for cid, smiles in expected.items()}
    found = {cid: Chem.CanonSmiles(smiles) for cid, smiles in sources.chemicals() if cid in expected}
    assert found == expected


def test_the_version_is_the_installed_one():
    assert importlib.metadata.version("chemicals") == sources.SOURCES["chemicals"].version


def test_another_table_than_the_pinned_one_is_refused(monkeypatch):
    pinned = replace(sources.SOURCES["chemicals"], sha256="0" * 64)
    monkeypatch.setitem(sources.SOURCES, "chemicals", pinned)
    with pytest.raises(DataError, match=r"sha256 3b9aac5ae8d2.*pip install --force-reinstall chemicals==1\.5\.2"):
        next(sources.chemicals())
    monkeypatch.setitem(sources.SOURCES, "chemicals", replace(pinned, file="none.tsv"))
    with pytest.raises(DataError, match="no such package or file"):
        next(sources.chemicals())


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("bom.csv", b"\xef\xbb\xbfsmiles,name\nCCO,ethanol\nC,methane\n", "smiles"),
        ("crlf.csv", b"name,smiles\r\nethanol,CCO\r\nmethane,C\r\n", "smiles"),
        ("tabs.tsv", b"name\tsmiles\nethanol\tCCO\nmethane\tC\n", "smiles"),
        ("quoted.csv", b'name,smiles\n"a, b","CCO"\nmethane,C\n', "smiles"),
        ("names.smi", b"CCO ethanol\nC\tmethane\n", None),
    ],
)
def test_files_of_ones_own(tmp_path, name, content, column):
    path = tmp_path / name
    path.write_bytes(content)
    assert list(sources.own_file(path, column)) == ["CCO", "C"]
    section = {"source": "file", "path": str(path), "column": column}
    assert list(sources.read(section)) == ["CCO", "C"]


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


def test_parquet_of_ones_own(tmp_path):
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table({"smiles": ["CCO", None, "C"], "x": [1, 2, 3]}), path)
    assert list(sources.own_file(path, "smiles")) == ["CCO", "", "C"]
    with pytest.raises(DataError, match="found the columns smiles, x"):
        list(sources.own_file(path, "SMILES"))


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("wrong.csv", b"a,b\n1,2\n", "smiles", r"column 'smiles' of .*wrong\.csv: found the columns a, b"),
        ("unnamed.csv", b"a,b\n1,2\n", None, "found the columns a, b"),
        ("empty.csv", b"", "smiles", r"found the columns \(none\)"),
        ("header.csv", b"smiles\n", "smiles", "found no rows"),
        ("empty.smi", b"", None, "found no rows"),
        ("quote.csv", b'smiles\nCCO\n"CC\nCO\n', "smiles", "quote in line 3 .*unexpected end of data"),
        ("cut.parquet", b"PAR1 and no more", "smiles", "no Parquet"),
        ("book.xlsx", b"PK", "smiles", r"kind '\.xlsx'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, column, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(sources.own_file(path, column))
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


def test_the_version_of_ones_own_file_is_its_content(tmp_path):
    path = tmp_path / "own.smi"
    versions = set()
    for text in ("CCO", "CCC"):
        path.write_text(text)
        versions.add(sources.record({"source": "file", "path": str(path)})["version"])
    assert len(versions) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: found no such file"):
        list(sources.own_file(tmp_path / "none.csv", "smiles"))
