"""Sources: published tables as they are published, and where files of one's own lie."""

import gzip
import hashlib
import importlib.metadata
import json
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
from rdkit import Chem

from chemscale.catalogue import CATALOGUE, Member
from chemscale.data import molecule_files, sources
from chemscale.errors import DataError

OFFLINE = {"offline": True, "mirror": None}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)


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
    assert list(molecule_files.read(located)) == [smiles for _, smiles in sources.chemicals()]


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
    assert list(molecule_files.read(located)) == ["CCO", "CC", "C", "c1ccccc1"]
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
    assert list(molecule_files.read(located)) == ["CCO", "CC"] * 50_000
    assert not list((tmp_path / "cache").rglob("*.txt"))
    assert located["record"]["urls"] == list(CATALOGUE["pubchem10m"].urls)


def test_pubchem_is_the_snapshot_that_its_md5_names(tmp_path, monkeypatch):
    content = gzip.compress(b"1\tCC(=O)OC(CC(=O)[O-])C[N+](C)(C)C\n2\tC\n")
    (tmp_path / "CID-SMILES.gz").write_bytes(content)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    located = sources.locate({"kind": "molecules", "source": "pubchem"}, tmp_path / "cache", OFFLINE)
    assert list(molecule_files.read(located)) == ["CC(=O)OC(CC(=O)[O-])C[N+](C)(C)C", "C"]
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
        list(molecule_files.read(located))


def test_every_source_of_molecules_has_a_reader(tmp_path):
    for entry in CATALOGUE.values():
        if entry.domain == "language":
            located = {"files": [str(tmp_path / "none")], "parser": entry.parser, "column": "x", "member": "x"}
            # not the error of an unknown format
            with pytest.raises((DataError, FileNotFoundError), match=r"[Nn]o such file"):
                list(molecule_files.read(located))


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
