"""Rows of tables in text: whatever the dialect and the damage, every line is accounted for, and cells are right."""

import csv
import io
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chemscale.data import delimited, molecule_files
from chemscale.data.molecule_files import Unreadable, own_file
from chemscale.data.molecules import Converted, convert
from chemscale.errors import DataError

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"
POLICY = {"fragments": "keep", "stereo": "keep", "max_symbols": 128, "split_by": "constitution"}
STRAY_QUOTE = Unreadable("stray_quote")
MANY = settings(
    derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def lines_of(content):
    """The lines of a file as anybody reads them: with universal line ends."""
    return list(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))


def rows_of(content, delimiter=",", columns=2, at=0):
    """The rows of a table of which the first line is the header."""
    lines = delimited.NumberedLines(iter(content.splitlines(keepends=True)))
    next(lines)
    return list(delimited.table_rows(Path("t.csv"), lines, delimiter, columns, at))


def check_lines(content, rows):
    """Every line after the header is blank or belongs to exactly one row."""
    lines = lines_of(content)
    owned = [number for row in rows for number in range(row.line, row.line + row.lines)]
    blank = [number for number, line in enumerate(lines, 1) if not line.strip("\r\n") and number not in set(owned)]
    assert sorted(owned + blank + [1]) == list(range(1, len(lines) + 1))


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


# --- the rule of quotes -----------------------------------------------------------------------------------------------

LOT = [f"{'C' * number}O,lot {number}" for number in range(1, 13)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # legal: RFC 4180
        (['CCO,"a, b"', 'CC,"say ""x"""'], ["CCO", "CC"]),
        (['CCO,"two', 'lines"', "CC,x"], ["CCO", "CC"]),
        (['CCO,"Smith, J.', 'Jones, K.', '', 'of the list, no SMILES"', "CC,x"], ["CCO", "CC"]),
        (['"CCO","two', '""quoted""', 'lines"', '"CC","x"'], ["CCO", "CC"]),
        # a quote within a cell is a character
        (['CCO,5"-a', 'CC,6"', 'C,"7"'], ["CCO", "CC", "C"]),
        # closed, and something follows
        (['CCO,"a"b', "CC,x"], [STRAY_QUOTE, "CC"]),
        (['CCO,"a', 'CC,"b"', "C,c"], [STRAY_QUOTE, "CC", "C"]),
        # never closed
        (['CCO,"a', "CC,b", "C,c"], [STRAY_QUOTE, "CC", "C"]),
        # closed after other rows of the table
        ([LOT[0], LOT[1].replace(",", ',"'), *LOT[2:9], LOT[9] + '"', LOT[10]],
         ["CO", STRAY_QUOTE, *["C" * number + "O" for number in range(3, 12)]]),
        (['CCO,"crude', 'CCCCCO,pure"', "CC,x"], [STRAY_QUOTE, "CCCCCO", "CC"]),
        (['"CCO,crude', *LOT[3:6], '"CC,x'], [STRAY_QUOTE, "CCCCO", "CCCCCO", "CCCCCCO", STRAY_QUOTE]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stray_quote_costs_its_line_and_no_other(tmp_path, lines, expected, end):
    content = end.join(["smiles,name", *lines, ""]).encode()
    assert list(own_file(write(tmp_path, content), "smiles")) == expected
    check_lines(content, rows_of(content))


def test_in_a_table_of_one_column_rows_within_quotes_are_rejects(tmp_path):
    content = b'smiles\nCCO\n"CCN\nCCC\nCCS\nCCF"\nCC\n"CCCC\nCCCC"\n'
    expected = ["CCO", *[STRAY_QUOTE] * 4, "CC", "CCCC\nCCCC"]
    assert list(own_file(write(tmp_path, content), "smiles")) == expected


@pytest.mark.parametrize("lines", [998, 1001])
def test_a_cell_has_a_thousand_lines_at_most(tmp_path, lines):
    # such as the coordinates of a molecule
    cell = "\n".join(["0.0 0.0 0.0 C"] * lines)
    content = f'smiles,block\nCC,"{cell}"\nCCO,x\n'.encode()
    path = write(tmp_path, content)
    found = [row for row in own_file(path, "smiles") if row == STRAY_QUOTE or ("C" in row and " " not in row)]
    assert found == ([STRAY_QUOTE, "CCO"] if lines > 1000 else ["CC", "CCO"])
    check_lines(content, rows_of(content))


def test_stray_quotes_are_met_in_bounded_memory_and_time(tmp_path):
    # each line closes a cell and opens another: the search for an end is long for every one of them
    path = write(tmp_path, b'smiles,name\n"x\n' + (b'a",' + b"x" * 1000 + b',"b\n') * 10_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"stray quotes up to line .* in so many places"):
        list(own_file(path, "smiles"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


# --- the columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "column", "message"),
    [
        ("id,smiles,smiles", "smiles", r"'smiles' \(column 2\) and 'smiles' \(column 3\)"),
        ("smiles,id, smiles", "smiles", r"'smiles' \(column 1\) and ' smiles' \(column 3\)"),
        ("smiles,smi\u200bles", "smiles", r"'smiles' \(column 1\) and 'smi\\u200bles' \(column 2\)"),
        ('"smiles","smiles "', "smiles ", r"'smiles' \(column 1\) and 'smiles ' \(column 2\)"),
        ("id; smiles;SMILES", "smiles", r"the columns id;' smiles';SMILES \(separated by semicolons\)"),
        ("id, smiles,SMILES", "smiles", r"the columns id, ' smiles', SMILES"),
        (",".join(f"c{number}" for number in range(1000)), "smiles", "c18, c19 and 980 more"),
    ],
)
def test_columns_that_may_be_meant_are_named(tmp_path, header, column, message):
    path = write(tmp_path, f"{header}\nC,C,C\n".encode())
    with pytest.raises(DataError, match=message):
        list(own_file(path, column))


def test_names_in_other_letters_are_other_names(tmp_path):
    assert list(own_file(write(tmp_path, b"SMILES,smiles\nC,CC\n"), "smiles")) == ["CC"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_read_where_the_header_leaves_no_doubt(tmp_path, delimiter):
    lines = [["name", "smiles", "mass"], ["a, b", "CCO", "46,07"], ["x", "CC", "30,07"]]
    content = "\n".join(delimiter.join(line) for line in lines).encode()
    assert list(own_file(write(tmp_path, content), "smiles")) == ["CCO", "CC"]
    hint = f"sep={delimiter}\n".encode()
    assert list(own_file(write(tmp_path, hint + content), "smiles")) == ["CCO", "CC"]
    # commas come first, and two delimiters that fit are one too many
    assert list(own_file(write(tmp_path, b"smiles,a;b\nC,x;y\n"), "smiles")) == ["C"]
    with pytest.raises(DataError, match=r"the columns a(\||;)smiles"):
        list(own_file(write(tmp_path, b"a;smiles;x|smiles|b\nC,x;y\n"), "smiles"))
    if delimiter != "\t":
        with pytest.raises(DataError, match=r"\(separated by .*\); end its name in \.csv, or separate them by tabs"):
            list(own_file(write(tmp_path, content, "t.tsv"), "smiles"))


def test_a_row_with_too_many_cells_before_its_smiles_is_a_reject(tmp_path):
    content = b"name,smiles\nbutane, 2-methyl,CCC(C)C\nacid, C,CCO\nwater,O,,\n"
    more = Unreadable("more_cells_than_columns")
    assert list(own_file(write(tmp_path, content), "smiles")) == [more, more, "O"]
    # those after it do not matter
    content = b"smiles,name\nCCC(C)C,butane, 2-methyl\n"
    assert list(own_file(write(tmp_path, content), "smiles")) == ["CCC(C)C"]


# --- the known files --------------------------------------------------------------------------------------------------


def account(path, column):
    """How many rows of a file are kept, and how many rejected for which reason."""
    found = {}
    for row in own_file(path, column):
        result = convert(row, POLICY)
        reason = "kept" if isinstance(result, Converted) else result
        found[reason] = found.get(reason, 0) + 1
    return found


def test_smiles_with_a_break_or_a_blank_are_rejects():
    assert account(FAULTS / "wrapped_smiles.csv", "smiles") == {"kept": 300, "white_space": 3}


def test_rows_between_stray_quotes_are_not_swallowed():
    assert account(FAULTS / "swallowed_rows.csv", "smiles") == {"kept": 299, "stray_quote": 1}
    content = (FAULTS / "swallowed_rows.csv").read_bytes()
    rows = rows_of(content)
    check_lines(content, rows)
    names = [f"m{number}" for number in range(300)]
    names[50], names[250] = '"crude lot 7', 'lot 9 pure"'
    assert [(row.line, row.cells and row.cells[1]) for row in rows if row.line != 52] == [
        (number + 2, name) for number, name in enumerate(names) if number != 50
    ]


def test_of_two_columns_of_one_name_none_is_taken():
    with pytest.raises(DataError, match=r"found 'smiles' \(column 2\) and 'smiles' \(column 3\)"):
        list(own_file(FAULTS / "twice_smiles.csv", "smiles"))


def test_a_table_with_semicolons_is_read():
    table = pd.read_csv(FAULTS / "semicolon_quotes.csv", sep=";")
    assert list(own_file(FAULTS / "semicolon_quotes.csv", "Smiles")) == table["Smiles"].tolist()
    with pytest.raises(DataError, match=r"the columns ChEMBL ID;Name;Smiles \(separated by semicolons\)"):
        list(own_file(FAULTS / "semicolon_quotes.csv", "smiles"))


def test_a_table_of_categories_is_read():
    assert account(FAULTS / "category.parquet", "smiles") == {"kept": 300}
    assert (
        list(own_file(FAULTS / "category.parquet", "smiles"))
        == pd.read_parquet(FAULTS / "category.parquet")["smiles"].astype(str).tolist()
    )


# --- properties -------------------------------------------------------------------------------------------------------

SMILES = st.sampled_from(["CCO", "c1ccccc1", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "C/C=C/C", "", "CC(C)(C)O", "N#N"])
# letters of no element: text in which no line is a row of the table
NAME = st.text(alphabet="xyz ,;|\t\"'\n\r\u00e9", max_size=12)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def tables(draw):
    """A table as a writer of any dialect leaves it: its bytes, delimiter, and the names and SMILES of its rows."""
    delimiter, end = draw(st.sampled_from([",", ";", "\t", "|"])), draw(ENDS)
    rows = draw(st.lists(st.tuples(NAME, SMILES), min_size=1, max_size=8))
    ragged = draw(st.booleans())
    stream = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["name", "smiles"])
    for name, smiles in rows:
        # cells at the end that are missing, or that the header does not have
        cells = [name, smiles, *[""] * draw(st.integers(0, 2))] if ragged else [name, smiles]
        if ragged and draw(st.booleans()):
            cells = cells[:1]
        writer.writerow(cells)
        if draw(st.integers(0, 4)) == 0:
            stream.write(end)
    text = stream.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(end)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]))
    return text.encode(encoding), delimiter, encoding, ragged


@MANY
@given(table=tables())
def test_tables_of_every_dialect_are_read_as_others_read_them(tmp_path, table):
    content, delimiter, encoding, ragged = table
    path = write(tmp_path, content, "t.tsv" if delimiter == "\t" else "t.csv")
    text = content.decode(encoding)
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    expected = [row[1] if len(row) > 1 else "" for row in rows]
    # a cell of that many line breaks is part of the file, and no row of its own
    assert list(own_file(path, "smiles")) == expected
    if not ragged and "\r" not in text:
        frame = pd.read_csv(path, sep=delimiter, encoding=encoding, dtype=str, keep_default_na=False)
        assert expected == frame["smiles"].tolist()
    found = rows_of(content.removeprefix(b"\xef\xbb\xbf"), delimiter, len(header), 1)
    assert len(found) == len(rows)
    check_lines(content.removeprefix(b"\xef\xbb\xbf"), found)


@MANY
@given(body=st.text(alphabet='CNO,"\n\r x', max_size=120), columns=st.integers(1, 3))
def test_whatever_the_quotes_every_line_is_accounted_for(body, columns):
    content = (",".join(["smiles", "a", "b"][:columns]) + "\n" + body).encode()
    lines = lines_of(content)
    rows = rows_of(content, columns=columns)
    check_lines(content, rows)
    for row in rows:
        own = lines[row.line - 1 : row.line - 1 + row.lines]
        if row.cells is None:
            assert row.lines == 1
            assert '"' in own[0] or columns == 1
        else:
            # its lines alone give the same cells, by a reader that forgives what is no damage only
            assert list(csv.reader(own, strict=True)) == [row.cells]


@MANY
@given(
    content=st.binary(max_size=200)
    | st.lists(
        st.sampled_from([b"smiles", *(bytes([code]) for code in b',;|\t\n\r "\0\xff'), b"CCO", b"sep=;"]), max_size=40
    ).map(b"".join),
    name=st.sampled_from(["t.csv", "t.tsv", "t.smi", "t.csv.gz", "t.parquet"]),
)  # fmt: skip
def test_any_bytes_end_in_rows_or_in_one_line(tmp_path, content, name):
    path = write(tmp_path, content, name)
    try:
        rows, message = list(own_file(path, "smiles")), ""
    except DataError as error:
        rows, message = [], str(error)
    assert message.isprintable()
    assert bool(rows) == (not message)
    assert all(isinstance(row, str | Unreadable) for row in rows)


@MANY
@given(
    quotes=st.sets(st.integers(0, 39), max_size=6),
    opening=st.booleans(),
    names=st.lists(st.text(alphabet="xyz 123", min_size=1, max_size=6), min_size=40, max_size=40),
)
def test_stray_quotes_in_a_table_are_rejects_of_their_lines_alone(quotes, opening, names):
    smiles = ["C" * (3 + number % 5) + "O" for number in range(40)]
    lines = [f"{text},{name}" for text, name in zip(smiles, names, strict=True)]
    for count, number in enumerate(sorted(quotes)):
        opens = (count % 2 == 0) == opening
        lines[number] = lines[number].replace(",", ',"') if opens else lines[number] + '"'
    content = "\n".join(["smiles,name", *lines, ""]).encode()
    rows = rows_of(content)
    check_lines(content, rows)
    for row in rows:
        if row.cells is None:
            assert row.line - 2 in quotes
        else:
            assert row.cells[0] == smiles[row.line - 2]
    # only two neighbours whose quotes make one legal cell with few characters of SMILES could be one row
    assert len(rows) >= 40 - sum(number + 1 in quotes for number in quotes)


def test_the_reader_of_files_counts_as_the_reader_of_rows(tmp_path):
    content = b'smiles,name\n\nCCO,"two\nlines"\n"C"x,y\n\r\nCC\n'
    assert list(molecule_files.own_file(write(tmp_path, content), "smiles")) == ["CCO", STRAY_QUOTE, "CC"]
    assert [(row.line, row.lines) for row in rows_of(content)] == [(3, 2), (5, 1), (7, 1)]
