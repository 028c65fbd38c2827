"""From SMILES to SELFIES: policies, constitutions, limits, and a ledger that accounts for every row."""

import csv
import json
from pathlib import Path

import pytest
import selfies

from chemscale.data import molecules
from chemscale.errors import DataError
from chemscale.io import read_parquet

SMOKE = Path(__file__).parents[2] / "data" / "smoke_molecules.csv"
POLICY = {"fragments": "keep", "stereo": "keep", "max_symbols": 128}


def _section(path, **changes):
    return {"kind": "molecules", "source": "file", "path": str(path), "column": "smiles", "max_reject_share": 0.05,
            "workers": 1, **POLICY, **changes}  # fmt: skip


def _file(folder, rows):
    path = folder / "own.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([["smiles"], *([row] for row in rows)])
    return path


def _group(smiles):
    converted = molecules.convert(smiles, POLICY)
    assert not isinstance(converted, str), converted
    return converted[2]


@pytest.mark.parametrize(
    "family",
    [
        ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O", "OC(=O)C(C)N"],
        ["C/C=C/Cl", "C/C=C\\Cl", "CC=CCl"],
        ["CCN(CC)CC", "CCN(CC)CC.Cl", "Cl.CCN(CC)CC", "CCN(CC)CC.OS(=O)(=O)O"],
        ["[13CH3]CO", "CCO", "[2H]OCC", "[2H]C([2H])([2H])C([2H])([2H])O[2H]"],
        ["[H]/N=C(/C)CC", "[H]/N=C(\\C)CC", "N=C(C)CC"],
        ["CC(=O)O", "CC(=O)[O-].[Na+]", "CC(=O)[O-].CC(=O)[O-].[Ca+2]", "CC(=O)[O-]"],
        ["CCC[NH3+].[Cl-]", "CCCN", "CCCN.Cl"],
        ["C[N+](C)(C)CC(O)CC(=O)O", "C[N+](C)(C)C[C@H](O)CC(=O)[O-]"],
    ],
    ids=[
        "enantiomers",
        "double bond",
        "salts of bases",
        "isotopes",
        "hydrogen",
        "salts of acids",
        "ammonium",
        "betaines",
    ],
)
def test_forms_of_one_molecule_share_a_constitution(family):
    assert len({_group(smiles) for smiles in family}) == 1
    assert len({_group("CCCCCCCCCC"), *map(_group, family)}) == 2


def test_labels_of_atoms_are_no_part_of_a_molecule():
    assert molecules.convert("[CH3:1][CH2:2][OH:3]", POLICY) == molecules.convert("CCO", POLICY)


def test_a_row_that_breaks_a_library_is_counted(monkeypatch):
    def fail(smiles):
        raise RuntimeError("of some kind")

    monkeypatch.setattr(selfies, "encoder", fail)
    assert molecules._convert_chunk((["CCO", None], POLICY)) == ["not_convertible", "unreadable_row"]


def test_a_tie_of_fragments_does_not_depend_on_their_order():
    # as many heavy atoms: more hydrogen decides, then the text
    assert _group("CCO.CC=O") == _group("CC=O.CCO") == _group("CCO")
    assert _group("CCN.CCC") == _group("CCC.CCN")


def test_policies_of_stereo_and_fragments():
    smiles = "C[C@H](N)C(=O)O.Cl"
    kept = molecules.convert(smiles, POLICY)
    bare = molecules.convert(smiles, POLICY | {"stereo": "strip", "fragments": "largest"})
    assert "@" in kept[0]
    assert "." in kept[1]
    assert bare[:2] == ("CC(N)C(=O)O", selfies.encoder("CC(N)C(=O)O"))
    assert kept[2] == bare[2]


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "empty"),
        ("no molecule", "unparsable"),
        ("C1CC", "unparsable"),
        ("Cé", "unparsable"),
        ("C(C)(C)(C)(C)C", "unparsable"),
        ("*", "no_selfies"),
        ("C" * 129, "too_long"),
        ("C" * 2001, "too_many_characters"),
        ("C1CC1" * 61, "too_many_rings"),
    ],
)
def test_a_rejected_row_has_its_reason(smiles, reason):
    assert molecules.convert(smiles, POLICY) == reason


def test_limits_come_before_the_encoder(monkeypatch):
    def hang(smiles):
        raise AssertionError(f"the encoder was given {len(smiles)} characters")

    monkeypatch.setattr(selfies, "encoder", hang)
    for smiles in ("C" * 2001, "C1CC1" * 61):
        assert molecules.convert(smiles, POLICY).startswith("too_many")
    with pytest.raises(AssertionError, match="2000 characters"):
        molecules.convert("C" * 2000, POLICY)


def test_the_ledger_accounts_for_every_row(tmp_path):
    rows = [
        "CCO",
        "OCC",
        "C(C)O",
        "",
        "C1CC",
        "*",
        "C" * 129,
        "C" * 2001,
        "C1CC1" * 61,
        "[Na+].[Cl-]",
        "CC(=O)O",
        "C1CC",
    ]
    path = _file(tmp_path, rows)
    molecules.prepare(_section(path, max_reject_share=0.9), tmp_path / "out")
    ledger = json.loads((tmp_path / "out" / "molecules.json").read_text())
    assert ledger["rejected"] == {
        "duplicate": 2,
        "empty": 1,
        "no_selfies": 1,
        "too_long": 1,
        "too_many_characters": 1,
        "too_many_rings": 1,
        "unparsable": 2,
    }
    assert ledger["rows_in"] == len(rows) == ledger["rows_kept"] + sum(ledger["rejected"].values())
    table = read_parquet(tmp_path / "out" / "molecules.parquet").to_pylist()
    assert [row["smiles"] for row in table] == ["CCO", "[Cl-].[Na+]", "CC(=O)O"]
    assert [row["row"] for row in table] == [molecules.row_digest(row["smiles"]) for row in table]


def test_too_many_rejects_stop_the_stage_and_leave_nothing(tmp_path):
    path = _file(tmp_path, ["CCO", "CCC", "CCN", "C1CC"])
    with pytest.raises(DataError, match=r"at most 24\.0% of 4 rows rejected: found 1 \(1 unparsable\)"):
        molecules.prepare(_section(path, max_reject_share=0.24), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    molecules.prepare(_section(path, max_reject_share=0.25), tmp_path / "out")


def test_duplicates_are_no_fault_of_the_source(tmp_path):
    path = _file(tmp_path, ["CCO"] * 9 + ["CCC"])
    molecules.prepare(_section(path, max_reject_share=0.0), tmp_path / "out")
    ledger = json.loads((tmp_path / "out" / "molecules.json").read_text())
    assert (ledger["rows_kept"], ledger["rejected"]) == (2, {"duplicate": 8})


def test_the_number_of_workers_changes_no_byte(tmp_path, monkeypatch):
    # several chunks for each worker
    monkeypatch.setattr(molecules, "_CHUNK", 50)
    for workers in (1, 3):
        molecules.prepare(_section(SMOKE, workers=workers), tmp_path / str(workers))
    for name in ("molecules.parquet", "molecules.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    assert json.loads((tmp_path / "1" / "molecules.json").read_text())["rows_in"] == 640
    # and the molecules stand in the order of the file
    with open(SMOKE, newline="") as stream:
        converted = [molecules.convert(row["smiles"], POLICY) for row in csv.DictReader(stream)]
    in_order = dict.fromkeys(result[0] for result in converted if not isinstance(result, str))
    assert read_parquet(tmp_path / "1" / "molecules.parquet")["smiles"].to_pylist() == list(in_order)
