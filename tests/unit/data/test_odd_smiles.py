"""SMILES with characters that do not belong there: no row becomes another molecule than its text says."""

import csv
import unicodedata
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger

from chemscale.data.molecule_files import Unreadable, own_file
from chemscale.data.molecules import Converted, convert

POLICY = {"fragments": "keep", "stereo": "keep", "max_symbols": 128, "split_by": "constitution"}
REASONS = {
    "cxsmiles_extension",
    "empty",
    "no_selfies",
    "reaction",
    "stray_quote",
    "unparsable",
    "unreadable_row",
    "white_space",
}
MANY = settings(
    derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def as_rdkit_reads_it(text):
    """The canonical SMILES of a whole text, of which RDKit may take no part for a name; None where it is none."""
    parameters = Chem.SmilesParserParams()
    parameters.parseName = parameters.allowCXSMILES = False
    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(text, parameters)
    return None if molecule is None else Chem.MolToSmiles(molecule)


CODES = [*range(0x180), 0x1680, 0x180E, *range(0x2000, 0x2070), 0x3000, 0xFEFF, 0xFF23, 0xDC80]


def test_no_character_splits_a_smiles():
    for code in CODES:
        result = convert(f"CC{chr(code)}OCC", POLICY)
        if isinstance(result, Converted):
            assert 0x20 < code < 0x7F
            assert result.smiles == as_rdkit_reads_it(f"CC{chr(code)}OCC")
        elif chr(code).isspace() or code in (0xAD, 0x200B, 0x2060, 0xFEFF):
            assert result == "white_space"
        else:
            # of what is not seen there is more than Python calls white space
            hidden = unicodedata.category(chr(code)) == "Cf" and result == "white_space"
            assert hidden or result in (("reaction",) if code == ord(">") else ("unparsable", "no_selfies"))


def test_blanks_around_a_smiles_do_not_matter_and_nothing_else_is_passed_over():
    for code in CODES:
        for text in (f"CCO{chr(code)}", f"{chr(code)}CCO"):
            result = convert(text, POLICY)
            if chr(code) in " \t\n\v\f\r\u00a0":
                assert result.smiles == "CCO"
            elif isinstance(result, Converted):
                assert 0x20 < code < 0x7F
                assert result.smiles == as_rdkit_reads_it(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CC\nO", "white_space"),
        ("CC\r\nO", "white_space"),
        ("CCO ethanol", "white_space"),
        ("CC\u200bO", "white_space"),
        ("\ufeffCCO", "white_space"),
        ("CC |^1:0|", "cxsmiles_extension"),
        ("CC |$R1;$| a name", "cxsmiles_extension"),
        ("CC\t|^1:0,\n1|", "cxsmiles_extension"),
        ("CC | x", "white_space"),
        ("CCO>>CC=O", "reaction"),
        ("CCO>[Pd]>CC=O", "reaction"),
        ("C->[Fe]C1", "unparsable"),
        ("[C,N]", "unparsable"),
        ("CCO\x01", "unparsable"),
        (" \t\u00a0", "empty"),
    ],
)
def test_the_reason_says_what_is_wrong(text, reason):
    assert convert(text, POLICY) == reason


# --- whole files ------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [" ", "\t", "\n", "\r\n", "\u00a0", "\u200b", "\ufeff", "\0", "\x01", "\x7f", "\x1c", "\u00e9", '"', "'", ",", ";",
     "|", " |^1:0|", " name", ">>", "->", "~", "[#6]", "[C,N]", "%", "%10", "1", "(", ")", ".", "[", "]", "*", "#", "x",
     "\\", "/", "@", ":", "[CH3:1]", "[U+9]", "Cl", "\ud83d"]
)  # fmt: skip
SMILES = st.sampled_from(["CCO", "c1ccccc1", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "C/C=C/C", "CC(C)(C)O", "N#N", ""])


@st.composite
def texts(draw):
    """A SMILES with up to three pieces put into it."""
    text = draw(SMILES)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(PIECES) + text[place:]
    return text


def check(rows, expected):
    """The rows of a file are those that were written: kept ones are what RDKit reads, others have a reason."""
    account = Counter()
    for row, text in zip(rows, expected, strict=True):
        result = convert(row, POLICY)
        account["kept" if isinstance(result, Converted) else result] += 1
        if isinstance(result, Converted):
            assert result.smiles == as_rdkit_reads_it(text.strip(" \t\n\v\f\r\u00a0"))
        if not isinstance(row, Unreadable):
            assert row == text
    assert account.keys() <= REASONS | {"kept"}
    assert account.total() == len(expected)


@MANY
@given(expected=st.lists(texts().filter(lambda text: "\ud83d" not in text), min_size=1, max_size=6))
def test_tables_of_odd_smiles_hold_what_was_written(tmp_path, expected):
    path = tmp_path / "odd.csv"
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["name", "smiles"], *(("x", text) for text in expected)])
    check(list(own_file(path, "smiles")), expected)
    path = tmp_path / "odd.parquet"
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    kind = kinds[len("".join(expected)) % len(kinds)]
    column = pa.array(expected)
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    pq.write_table(pa.table({"smiles": column}), path)
    check(list(own_file(path, "smiles")), expected)


@MANY
@given(
    lines=st.lists(
        st.tuples(texts(), st.sampled_from(["", " ethanol", "\tno 1", " a|b|", " |^1:0| x"])), min_size=1, max_size=6
    )
)
def test_lists_of_odd_smiles_are_read_up_to_the_name(tmp_path, lines):
    path = tmp_path / "odd.smi"
    content = "".join(f"{text}{name}\n" for text, name in lines).encode("utf-8", "surrogatepass")
    # a mark of the file's encoding is no part of its first line
    path.write_bytes(b"\xef\xbb\xbf" + content)
    rows = list(own_file(path, None))
    written = content.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")[:-1]
    assert len(rows) == len(written)
    for row, line in zip(rows, written, strict=True):
        words = line.strip(" \t").replace("\t", " ").split(" ", 1)
        result = convert(row, POLICY)
        if isinstance(result, Converted):
            assert result.smiles == as_rdkit_reads_it(words[0].strip("\u00a0\v\f"))
            assert not (len(words) > 1 and words[1].strip().startswith("|^"))
        else:
            assert result in REASONS
