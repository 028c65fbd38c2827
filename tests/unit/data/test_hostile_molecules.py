"""Files that were made to hurt their reader end in one line, before they take time or memory."""

import gzip
import json
import os
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.data import sources
from chemscale.data.molecule_files import own_file, read
from chemscale.errors import DataError

OFFLINE = {"offline": True, "mirror": None}
NAMES = ["x.csv", "x.csv.gz", "x.smi", "x.parquet"]


def located(path, cache, column="smiles"):
    return sources.locate(
        {"kind": "molecules", "source": "file", "path": str(path), "column": column}, cache, OFFLINE
    )  # fmt: skip


def refusal(path, tmp_path):
    """The one line in which a file ends, before its sha256 is taken."""
    with pytest.raises(DataError) as caught:
        located(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_regular_file_is_never_opened(tmp_path, name):
    path = tmp_path / name
    for make, what in (
        (lambda: os.mkfifo(path), "a FIFO"),
        (lambda: path.symlink_to("/dev/zero"), "a device behind a link"),
        (lambda: path.symlink_to(tmp_path / "none"), "a link to nothing"),
        (lambda: path.symlink_to(tmp_path), "a folder behind a link"),
    ):
        make()
        assert f"found {what}" in refusal(path, tmp_path)
        path.unlink()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        assert "found a socket" in refusal(path, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beginning", [b"", b"smiles\nCCO\n"])
def test_a_file_of_holes_is_refused(tmp_path, name, beginning):
    path = tmp_path / name
    with open(path, "wb") as stream:
        stream.write(beginning)
        stream.truncate(1 << 40)
    assert any(words in refusal(path, tmp_path) for words in ("on the disk", "bytes of zero", "no gzip", "Parquet"))


def test_a_line_without_an_end_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    with open(path, "wb") as stream:
        stream.write(b"smiles\n")
        for _ in range(70):
            stream.write(b"C" * (1 << 20))
    assert "more than 64 MiB without a line break after line 1" in refusal(path, tmp_path)
    path.write_bytes(path.read_bytes()[7:])
    assert "a header that is none (line 1 has more than 1 MiB)" in refusal(path, tmp_path)


@pytest.mark.parametrize("content", [bytes(1 << 20), b"CCO\n" * (1 << 18), b"C" * (1 << 20)])
def test_a_gzip_file_that_unpacks_to_far_more_is_refused(tmp_path, content):
    path = tmp_path / "x.smi.gz"
    packed = gzip.compress(content, 6)
    path.write_bytes(packed * 70)
    with pytest.raises(DataError, match="unpacks to more than 200 times as much"):
        list(own_file(path, None))
    # as much of molecules that differ is read
    path.write_bytes(gzip.compress(b"".join(b"C" * (number % 40) + b"N%d\n" % number for number in range(300_000))))
    assert sum(1 for _ in own_file(path, None)) == 300_000


def test_names_of_files_and_columns_are_shown_escaped(tmp_path):
    path = tmp_path / "a\nb\x1b[31m\u202e.csv"
    path.write_text("\x1b[2J,\u202ex\nC,C\n")
    message = refusal(path, tmp_path)
    assert r"a\nb\x1b[31m\u202e.csv" in message
    assert r"the columns \x1b[2J, '\u202ex'" in message


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write(path, values, kind=None, **options):
    pq.write_table(pa.table({"smiles": pa.array(values, kind) if kind else values}), path, **options)


def repeated(length, rows):
    """A column in which one text of many characters stands in every row."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["C" * length]))


def varint(value):
    """A whole number as Parquet's footer holds it."""
    value, found = 2 * value, b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def announcing(path, rows, places):
    """Exchange the number of rows in some of the places where the footer says it for 2**40."""
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    parts = content[-8 - size : -8].split(varint(rows))
    joints = [varint(2**40 if place in places else rows) for place in range(len(parts) - 1)]
    footer = b"".join(part + joint for part, joint in zip(parts, [*joints, b""], strict=True))
    path.write_bytes(content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return len(joints)


def test_numbers_that_a_footer_announces_are_not_believed(tmp_path):
    path = tmp_path / "x.parquet"
    smiles = [f"C{'C' * (number % 9)}" for number in range(12_345)]
    write(path, smiles)
    places = announcing(path, len(smiles), {})
    assert places >= 3
    assert len(list(own_file(path, "smiles"))) == len(smiles)
    refused = 0
    for chosen in [{place} for place in range(places)] + [set(range(places))]:
        write(path, smiles)
        announcing(path, len(smiles), chosen)
        try:
            assert len(list(own_file(path, "smiles"))) == len(smiles)
        except DataError:
            refused += 1
    assert refused >= 3


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (lambda: pa.array(["CCO"] * 3_000_000), "3,000,000 rows in a file of"),
        (lambda: pa.nulls(3_000_000), "3,000,000 rows in a file of"),
        (lambda: repeated(1 << 20, 20_000), "bytes of text in a file of"),
        (lambda: pa.array(["C" * (1 << 20)] * 140), "a row group of .* bytes in .* packed ones; write it again"),
    ],
)
def test_a_small_file_of_much_is_refused(tmp_path, column, message):
    path = tmp_path / "x.parquet"
    values = column()
    write(path, values, compression="zstd", use_dictionary=values.type != pa.string() or len(values) > 140,
          row_group_size=4_000_000)  # fmt: skip
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=message):
        list(own_file(path, "smiles"))


@pytest.mark.parametrize("values", [[["C"]], [{"smiles": "C"}], [{"a": [{"smiles": "C"}]}], [1.5], [b"C"], [True]])
def test_columns_of_something_else_than_text_are_named(tmp_path, values):
    path = tmp_path / "x.parquet"
    write(path, pa.array(values))
    with pytest.raises(DataError, match=r"values of type .*; name a column of text"):
        list(own_file(path, "smiles"))
    with pytest.raises(DataError, match="the columns smiles"):
        list(own_file(path, "smiles.smiles"))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), *(pa.dictionary(code, text) for code, text in
             ((pa.int8(), pa.string()), (pa.int64(), pa.large_string()), (pa.uint16(), pa.string())))], ids=str
)  # fmt: skip
@pytest.mark.parametrize("store_schema", [True, False])
def test_text_of_every_kind_is_read(tmp_path, kind, store_schema):
    path = tmp_path / "x.parquet"
    values = pa.array(["CCO", None, "", "C", "CCO"])
    values = values.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else values.cast(kind)
    write(path, values, store_schema=store_schema)
    assert list(own_file(path, "smiles")) == ["CCO", "", "", "C", "CCO"]


def test_nulls_are_rows_without_a_smiles(tmp_path):
    path = tmp_path / "x.parquet"
    write(path, pa.nulls(3))
    assert list(own_file(path, "smiles")) == ["", "", ""]


def test_columns_of_one_name_in_parquet_are_named(tmp_path):
    path = tmp_path / "x.parquet"
    one = pa.array(["C"])
    for names, message in ((["smiles", "smiles"], "the column 'smiles' twice"),
                           (["smiles", " smiles"], r"'smiles' \(column 1\) and ' smiles' \(column 2\)")):  # fmt: skip
        pq.write_table(pa.Table.from_arrays([one, one], names), path)
        with pytest.raises(DataError, match=message):
            list(own_file(path, "smiles"))


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "RLE_DICTIONARY"])
def test_a_damaged_page_never_passes_as_another_number_of_rows(tmp_path, encoding):
    path = tmp_path / "x.parquet"
    options = {} if encoding == "RLE_DICTIONARY" else {"use_dictionary": False, "column_encoding": {"smiles": encoding}}
    write(path, ["CCO"] * 20 + ["C" * number for number in range(30)], **options)
    whole = path.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    found = set()
    for place in range(4, pages):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            found.add(len(list(own_file(path, "smiles"))))
        except DataError:
            found.add(0)
    assert found == {0, 50}
    # the number of values that a page announces
    for place in range(4, pages):
        if whole[place : place + 1] == varint(50):
            path.write_bytes(whole[:place] + varint(20) + whole[place + 1 :])
            with pytest.raises(DataError, match=r"20 rows where it announces 50|no readable Parquet"):
                list(own_file(path, "smiles"))


def test_tables_of_many_columns_are_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",".join(f"c{number}" for number in range(50_000)) + ",smiles\n" + ("," * 50_000 + "CCO\n") * 3)
    assert list(read(located(path, tmp_path / "cache"))) == ["CCO"] * 3
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({f"c{number}": [1] for number in range(3000)} | {"smiles": ["CCO"]}), path)
    assert list(own_file(path, "smiles")) == ["CCO"]


def test_a_gigabyte_is_enough(tmp_path):
    """The worst of these files, one after another in a process of its own."""
    write(tmp_path / "long.parquet", repeated(60 << 20, 1000), compression="zstd", store_schema=False)
    write(tmp_path / "page.parquet", ["C" * (1 << 20)] * 120, compression="zstd", use_dictionary=False,
          data_page_size=1 << 30)  # fmt: skip
    (tmp_path / "line.csv").write_bytes(b"smiles\n" + b"C" * (60 << 20) + b"\nCCO\n")
    code = """
import json, re, sys
from pathlib import Path
from chemscale.data.molecule_files import own_file
from chemscale.errors import DataError
found = {}
for name in sorted(Path(sys.argv[1]).iterdir()):
    try:
        found[name.name] = sum(1 for _ in own_file(name, "smiles"))
    except DataError as error:
        found[name.name] = str(error)
# other than getrusage, this leaves out what the parent process held
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([found, int(peak)]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    found, kilobytes = json.loads(done.stdout)
    assert found["line.csv"] == 2
    assert found["page.parquet"] == 120
    assert "bytes of text in a file of" in found["long.parquet"]
    assert kilobytes < 1_000_000
