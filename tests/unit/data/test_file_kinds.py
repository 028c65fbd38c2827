"""A file that is something else than its name says is named, by what other tools write."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import ase
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from chemscale.data.file_kinds import BEGINNING, foreign_kind
from chemscale.data.molecule_files import own_file
from chemscale.errors import DataError

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"
TABLE = b"smiles,name\nCCO,ethanol\n"


def molecule():
    found = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(found, randomSeed=1)
    found.SetProp("_Name", "ethanol")
    return found


def written(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def sdf():
    stream = io.StringIO()
    with Chem.SDWriter(stream) as writer:
        writer.write(molecule())
    return stream.getvalue().encode()


def archive(*names):
    def write(stream):
        with zipfile.ZipFile(stream, "w") as opened:
            for name in names:
                opened.writestr(name, "x")

    return written(write)


def tar():
    def write(stream):
        with tarfile.open(fileobj=stream, mode="w") as opened:
            opened.addfile(tarfile.TarInfo("x.csv"))

    return written(write)


def sqlite(tmp_path):
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table molecules (smiles text)")
    connection.close()
    return path.read_bytes()


def hdf5(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["smiles"] = 1
    return (tmp_path / "x.h5").read_bytes()


def arrow():
    table = pa.table({"smiles": ["CCO"]})

    def write(stream):
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)

    return written(write)


def ase_text(form):
    atoms = ase.Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]], cell=[5, 5, 5], pbc=True)
    stream = io.BytesIO() if form == "cif" else io.StringIO()
    atoms.write(stream, format=form)
    content = stream.getvalue()
    return content if isinstance(content, bytes) else content.encode()


KINDS = {
    "git lfs": (lambda _: (FAULTS / "pointer.csv").read_bytes(), r"a pointer of git LFS, .*; fetch it: git lfs pull"),
    "git annex": (lambda _: b"/annex/objects/SHA256E-s7--ab.csv\n", "a pointer of git-annex"),
    "page": (lambda _: b"\n <!DOCTYPE html>\n<html>", "an HTML page instead of the data"),
    "gzip": (lambda _: gzip.compress(TABLE), r"a gzip file; end its name in \.gz"),
    "zip": (lambda _: archive("x.csv"), "a zip archive"),
    "empty zip": (lambda _: archive(), "an empty zip archive"),
    "xlsx": (lambda _: archive("[Content_Types].xml", "xl/workbook.xml"), r"an Excel file \(xlsx\); save it as CSV"),
    "ods": (
        lambda _: archive("mimetype").replace(b"mimetypex", b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet"),
        "LibreOffice",
    ),
    "xls": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), r"an Excel file \(xls\)"),
    "xz": (lambda _: lzma.compress(TABLE), "an xz file"),
    "bzip2": (lambda _: bz2.compress(TABLE), "a bzip2 file"),
    "zstd": (lambda _: pa.compress(TABLE, "zstd", asbytes=True), "a zstd file"),
    "tar": (lambda _: tar(), "a tar archive"),
    "parquet": (lambda _: written(pd.DataFrame({"smiles": ["C"]}).to_parquet), "a Parquet file; end its name in"),
    "arrow": (lambda _: arrow(), "an Arrow file"),
    "numpy": (lambda _: written(lambda stream: np.save(stream, np.ones(3))), "a NumPy file"),
    "pickle": (lambda _: pickle.dumps(["CCO"]), "a Python pickle"),
    "sqlite": (sqlite, "an SQLite database"),
    "hdf5": (hdf5, "an HDF5 file"),
    "json": (lambda _: json.dumps({"message": "Not Found"}).encode(), "JSON"),
    "records": (lambda _: json.dumps([{"smiles": "CCO"}], indent=1).encode(), "JSON"),
    "xml": (lambda _: b'<?xml version="1.0"?><Error/>', "an XML file"),
    "sdf": (lambda _: sdf(), "an SDF or MOL file"),
    "mol": (lambda _: Chem.MolToV3KMolBlock(molecule()).encode(), "an SDF or MOL file"),
    "mol2": (lambda _: b"# made by hand\n\n@<TRIPOS>MOLECULE\nethanol\n", "a MOL2 file"),
    "pdb": (lambda _: Chem.MolToPDBBlock(molecule()).encode(), "a PDB file"),
    "pdb of ase": (lambda _: ase_text("proteindatabank"), "a PDB file"),
    "cif": (lambda _: ase_text("cif"), "a CIF file"),
    "xyz": (lambda _: Chem.MolToXYZBlock(molecule()).encode(), "an XYZ file"),
    "extended xyz": (lambda _: ase_text("extxyz"), "an XYZ file"),
    "reaction": (lambda _: b"$RXN\n\n", "a reaction file"),
    "utf-16": (lambda _: TABLE.decode().encode("utf-16-le"), "text in UTF-16"),
    "utf-16 with a mark": (lambda _: TABLE.decode().encode("utf-16"), "text in UTF-16"),
    "zeros": (lambda _: bytes(10_000), "a file that begins with bytes of zero"),
    "empty": (lambda _: b"", "an empty file"),
}


@pytest.mark.parametrize("name", ["x.csv", "x.smi", "x.tsv"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_table_is_named(tmp_path, kind, name):
    make, message = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(make(tmp_path))
    with pytest.raises(DataError, match=f"{name}: found .*{message}"):
        list(own_file(path, "smiles"))


def test_a_pointer_in_place_of_parquet_or_gzip_is_named(tmp_path):
    for name in ("x.parquet", "x.csv.gz"):
        path = tmp_path / name
        path.write_bytes((FAULTS / "pointer.csv").read_bytes())
        with pytest.raises(DataError, match="a pointer of git LFS"):
            list(own_file(path, "smiles"))


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        b"\xef\xbb\xbf" + TABLE,
        b"[Na+].[Cl-]\n[{no\n",
        b"PK,smiles\n",
        b"BZh,smiles\n",
        b"12\nno comment\nC 1 2\n",
        b"data_of,smiles\n_x,C\n",
        b"HEADER,smiles\nATOM,C\n",
        b"version,smiles\n1,C\n",
        b"smiles,block\nC,x\nC,y\nC,V2000\n",
        b"C\0",
        b"\n\nCCO\n",
        *(bytes([code]) * 3 + b"\nCCO\n" for code in range(1, 128)),
    ],
)
def test_what_may_be_a_table_is_not_named(content):
    assert foreign_kind(content[:BEGINNING]) is None
