"""Files of molecules given to `embed`: each row has a vector or a reason, and what is no file ends in one line."""

import os
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from chemscale import cli
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import DataError, InputError
from chemscale.inference import embed as embedding
from chemscale.inference.language import LanguageModel
from chemscale.models import registry

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """An untrained model takes the place of a finished cell's."""
    symbols = ["[C]", "[O]", "[N]", "[=C]", "[=O]", "[Branch1]", "[Ring1]", "[=Branch1]"]
    tokenizer = Tokenizer(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *symbols])
    knobs = {"layers": 1, "width": 8, "heads": 2}
    model = registry.build("chemgpt", knobs, seed=3, vocab_size=len(tokenizer), embedding_std=0.8).eval()
    monkeypatch.setattr(embedding, "load", lambda cell: LanguageModel(model, tokenizer, None))


def embedded(file, out, column="smiles"):
    """What `embed` says, and what it wrote."""
    done = embedding.embed(Path("cell"), file, out, column)
    table = pd.read_parquet(out)
    assert len(table) == done["rows"] == done["embedded"] + sum(done["rejected"].values())
    assert (table["embedding"].isna() == table["rejected"].notna()).all()
    assert dict(Counter(table["rejected"].dropna())) == done["rejected"]
    return done, table


@pytest.mark.parametrize(
    ("file", "column", "expected"),
    [
        ("wrapped_smiles.csv", "smiles", {"rows": 303, "embedded": 300, "rejected": {"white_space": 3}}),
        ("swallowed_rows.csv", "smiles", {"rows": 300, "embedded": 299, "rejected": {"stray_quote": 1}}),
        ("semicolon_quotes.csv", "Smiles", {"rows": 300, "embedded": 300, "rejected": {}}),
        ("category.parquet", "smiles", {"rows": 300, "embedded": 300, "rejected": {}}),
    ],
)
def test_the_account_of_a_file(tmp_path, file, column, expected):
    done, _ = embedded(FAULTS / file, tmp_path / "out.parquet", column)
    assert done == expected


PIECES = st.sampled_from(["C", "O", "N", " ", "\t", "(", ")", "=", "1", "\u00e9", '"', "|", "\u200b"])


@settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(PIECES, max_size=6).map("".join), min_size=1, max_size=20))
def test_every_line_of_a_list_has_a_vector_or_a_reason(tmp_path, rows):
    path = tmp_path / "odd.smi"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    done, table = embedded(path, tmp_path / "out.parquet", None)
    assert done["rows"] == len(rows)
    for text in table.loc[table["rejected"].isna(), "smiles"]:
        assert " " not in text
        assert Chem.MolFromSmiles(text) is not None


def test_what_cannot_be_read_or_written_is_refused_before(tmp_path):
    out = tmp_path / "out.parquet"
    os.mkfifo(tmp_path / "x.csv")
    (tmp_path / "z.smi").symlink_to("/dev/zero")
    good = tmp_path / "good.smi"
    good.write_text("CCO\n")
    for file, message in (("x.csv", "a FIFO"), ("z.smi", "a device behind a link"), ("none.smi", "no such file")):
        with pytest.raises(DataError, match=message):
            embedding.embed(Path("cell"), tmp_path / file, out, "smiles")
    assert not out.exists()
    (tmp_path / "null").symlink_to("/dev/null")
    for target, found in (
        (good, "a part of the input"),
        (tmp_path / "null", "a device"),
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
    ):
        with pytest.raises(InputError, match=f"{target}: found {found}"):
            embedding.embed(Path("cell"), good, target, None)
    assert good.read_text() == "CCO\n"
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pointer.csv", "a pointer of git LFS"),
        ("twice_smiles.csv", "'smiles' (column 2) and 'smiles' (column 3)"),
        ("semicolon_quotes.csv", "the columns ChEMBL ID;Name;Smiles (separated by semicolons)"),
    ],
)
def test_the_command_ends_in_one_line(tmp_path, monkeypatch, capsys, file, message):
    out = tmp_path / "out.parquet"
    monkeypatch.setattr(sys, "argv", ["chemscale", "embed", "cell", str(FAULTS / file), str(out), "--column", "smiles"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert not list(tmp_path.iterdir())
