"""From SMILES to SELFIES: policies, constitutions, limits, and a ledger that accounts for every row."""

import csv
import hashlib
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import selfies
from rdkit import Chem, RDLogger
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemscale.data import molecules, prepare_scaffolds, scaffolds
from chemscale.data.constitution import constitution, framework
from chemscale.data.molecule_files import Unreadable
from chemscale.data.runs import open_arrow, read_ledger
from chemscale.errors import DataError
from chemscale.io import read_json

SMOKE = Path(__file__).parents[2] / "data" / "smoke_molecules.csv"
POLICY = {
    "fragments": "keep",
    "stereo": "keep",
    "max_symbols": 128,
    "split_by": "constitution",
}


@pytest.fixture
def own_file(tmp_path, section):
    """A function that writes a table of SMILES and gives the section that reads it."""

    def write(rows, **changes):
        path = tmp_path / "own.csv"
        with open(path, "w", newline="") as stream:
            csv.writer(stream).writerows([["smiles"], *([row] for row in rows)])
        settings = {"path": str(path), "column": "smiles", "validation": 0.0, "test": 0.0, **changes}
        return section(kind="molecules", source="file", **settings)

    return write


def _group(smiles):
    converted = molecules.convert(smiles, POLICY)
    assert not isinstance(converted, str), converted
    return converted.group


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


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


def test_a_row_that_breaks_a_library_is_counted(monkeypatch, own_file, build, tmp_path, in_process):
    encode = molecules.encode

    def fail(smiles):
        if smiles == "CCO":
            raise RuntimeError("of some kind")
        return encode(smiles)

    monkeypatch.setattr(molecules, "encode", fail)
    manifest = build(own_file(["CCO", "CCC"], max_reject_share=0.5), tmp_path / "out")
    assert (manifest["rows_kept"], manifest["rejected"]) == (1, {"not_convertible": 1})
    assert molecules.convert(Unreadable("unreadable_row"), POLICY) == "unreadable_row"


def test_a_tie_of_fragments_does_not_depend_on_their_order():
    # as many heavy atoms: more hydrogen decides, then the text
    assert _group("CCO.CC=O") == _group("CC=O.CCO") == _group("CCO")
    assert _group("CCN.CCC") == _group("CCC.CCN")


def test_policies_of_stereo_and_fragments():
    smiles = "C[C@H](N)C(=O)O.Cl"
    kept = molecules.convert(smiles, POLICY)
    bare = molecules.convert(smiles, POLICY | {"stereo": "strip", "fragments": "largest"})
    assert "@" in kept.smiles
    assert "." in kept.selfies
    assert (bare.smiles, bare.selfies) == ("CC(N)C(=O)O", selfies.encoder("CC(N)C(=O)O"))
    assert kept.group == bare.group


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        (Unreadable("unreadable_row"), "unreadable_row"),
        (Unreadable("stray_quote"), "stray_quote"),
        ("", "empty"),
        ("no_molecule", "unparsable"),
        ("C1CC", "unparsable"),
        ("Cé", "unparsable"),
        ("C(C)(C)(C)(C)C", "unparsable"),
        ("*", "no_selfies"),
        ("C" * 129, "too_long"),
        ("C" * 2001, "too_many_characters"),
        ("C1CC1" * 61, "too_many_rings"),
        ("C(" * 51 + "C" + ")" * 51, "too_many_branches"),
    ],
)
def test_a_rejected_row_has_its_reason(smiles, reason):
    assert molecules.convert(smiles, POLICY) == reason


PATHOLOGICAL = {
    "a megabyte of carbon": ("C" * 1_000_000, "too_many_characters"),
    "a megabyte of open brackets": ("[" * 1_000_000, "too_many_characters"),
    "ten thousand fragments": (".".join("C" * 10_000), "too_many_characters"),
    "a ladder of rings": ("C1CC1" * 61, "too_many_rings"),
    "rings by two digits": ("".join(f"C%{number}" for number in range(10, 99)) * 2, "too_many_rings"),
    "rings never closed": ("C" + "1" * 130, "too_many_rings"),
    "branches in branches": ("C(" * 500 + "C" + ")" * 500, "too_many_branches"),
    "branches never closed": ("C(" * 900, "too_many_branches"),
}


@pytest.mark.parametrize(("smiles", "reason"), PATHOLOGICAL.values(), ids=PATHOLOGICAL)
def test_limits_come_before_rdkit(monkeypatch, smiles, reason):
    def hang(text, *arguments):
        raise AssertionError(f"RDKit was given {len(text)} characters")

    monkeypatch.setattr(Chem, "MolFromSmiles", hang)
    begun = time.process_time()
    assert molecules.convert(smiles, POLICY) == reason
    # 0.02 s for the longest of them
    assert time.process_time() - begun < 1
    with pytest.raises(AssertionError, match="2000 characters"):
        molecules.convert("C" * 2000, POLICY)


def test_what_is_within_the_limits_is_converted():
    rings, depth = "C1CC1" * 60, "C(" * 50 + "C" + ")" * 50
    policy = POLICY | {"max_symbols": 2046}
    for smiles in ("C" * 2000, rings, depth):
        converted = molecules.convert(smiles, policy)
        assert selfies.encoder(converted.smiles) == converted.selfies
    # digits in brackets are isotopes, charges and labels, and no rings
    assert not isinstance(molecules.convert("[13CH3]" + "[13CH2]" * 130 + "[13CH3]", policy), str)


def test_limits_that_only_rdkit_can_tell_come_before_the_encoder(monkeypatch):
    monkeypatch.setattr(molecules, "encode", lambda smiles: pytest.fail("the encoder was asked"))
    # a text of few ring numbers has few rings: the limit is lowered instead
    monkeypatch.setattr(molecules, "_MAX_RINGS", 1)
    assert molecules.convert("c1ccc2ccccc2c1", POLICY) == "too_many_rings"


def test_the_ledger_accounts_for_every_row(own_file, build, tmp_path, in_process):
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
        "C(" * 60 + "C" + ")" * 60,
        "[Na+].[Cl-]",
        "CC(=O)O",
        "C1CC",
    ]
    manifest = build(own_file(rows, max_reject_share=0.9), tmp_path / "out")
    assert manifest["rejected"] == {
        "duplicate": 2,
        "empty": 1,
        "no_selfies": 1,
        "too_long": 1,
        "too_many_branches": 1,
        "too_many_characters": 1,
        "too_many_rings": 1,
        "unparsable": 2,
    }
    assert manifest["rows_in"] == len(rows) == manifest["rows_kept"] + sum(manifest["rejected"].values())
    table = _shards(tmp_path / "out")
    assert sorted(table["smiles"]) == ["CC(=O)O", "CCO", "[Cl-].[Na+]"]
    digests = [hashlib.blake2b(smiles.encode(), digest_size=16).hexdigest() for smiles in table["smiles"]]
    assert table["row"].tolist() == digests == sorted(digests)


def test_too_many_rejects_stop_the_stage_and_leave_no_data(own_file, build, tmp_path, in_process):
    rows = ["CCO", "CCC", "CCN", "C1CC"]
    with pytest.raises(DataError, match=r"at most 24\.0% of 4 rows rejected: found 1 \(1 unparsable\)"):
        build(own_file(rows, max_reject_share=0.24), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name not in ("chunks", "work")] == []
    assert build(own_file(rows, max_reject_share=0.25), tmp_path / "out")["rows_kept"] == 3


def test_duplicates_are_no_fault_of_the_source(own_file, build, tmp_path, in_process):
    manifest = build(own_file(["CCO"] * 9 + ["CCC"], max_reject_share=0.0), tmp_path / "out")
    assert (manifest["rows_kept"], manifest["rejected"]) == (2, {"duplicate": 8})


def test_no_row_at_all_is_refused(own_file, build, tmp_path, in_process):
    with pytest.raises(DataError, match=r"found 2 \(2 unparsable\)"):
        build(own_file(["C1CC", "x"], max_reject_share=0.99), tmp_path / "out")


def test_runs_hold_the_rows_of_their_unit_in_the_order_of_digests(
    section, read_chunks, tmp_path, in_process, monkeypatch
):
    monkeypatch.setattr(molecules, "UNIT_ROWS", 100)
    told = section(kind="molecules", source="file", path=str(SMOKE), column="smiles", validation=0.1, test=0.1)
    markers = read_chunks(told, tmp_path / "out", chunks=3)
    records = [read_json(marker) for marker in markers]
    assert [record["units"] for record in records] == [7, 7, 7]
    assert sum(record["ledger"]["rows_in"] for record in records) == 640
    runs = sorted((tmp_path / "out" / "work" / records[0]["work"]).iterdir())
    assert [run.name for run in runs] == [f"run-{number:06d}.arrow" for number in range(7)]
    with open(SMOKE, newline="") as stream:
        source = [row["smiles"] for row in csv.DictReader(stream)]
    for number, run in enumerate(runs):
        table = open_arrow(run).to_pydict()
        assert table["row"] == sorted(table["row"])
        assert read_ledger(run).rows_in == len(source[100 * number : 100 * (number + 1)])
        for place, smiles in zip(table["place"], table["smiles"], strict=True):
            assert 100 * number <= place < 100 * (number + 1)
            assert Chem.CanonSmiles(source[place]) == smiles


def test_runs_of_other_code_section_or_source_are_not_taken(own_file, read_chunks, tmp_path, in_process):
    told = own_file(["CCO", "CCC"])
    works = [read_json(read_chunks(told, tmp_path / "out")[0])["work"]]
    works.append(read_json(read_chunks(told, tmp_path / "out", code="other")[0])["work"])
    works.append(read_json(read_chunks(own_file(["CCO", "CCC"], max_symbols=99), tmp_path / "out")[0])["work"])
    works.append(read_json(read_chunks(own_file(["CCO", "CCN"]), tmp_path / "out")[0])["work"])
    assert len(set(works)) == 4
    assert read_json(read_chunks(own_file(["CCO", "CCC"]), tmp_path / "out")[0])["work"] == works[0]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_no_scaffold_straddles_splits(section, build, tmp_path, in_process):
    settings = {"source": "file", "path": str(SMOKE), "column": "smiles", "validation": 0.15, "test": 0.25}
    tables = {}
    for split_by in ("constitution", "scaffold"):
        folder = tmp_path / split_by
        build(section(kind="molecules", split_by=split_by, **settings), folder)
        prepare_scaffolds.prepare(folder, "code", 1)
        tables[split_by] = _shards(folder).assign(scaffold=_scaffolds(folder))
    assert (tables["constitution"]["scaffold"] == tables["scaffold"]["scaffold"]).all()
    table = tables["scaffold"]
    RDLogger.DisableLog("rdApp.*")
    for smiles, found in zip(table["smiles"], table["scaffold"], strict=True):
        # the scaffold by RDKit itself, of the molecule as it stands there: the same where it is one uncharged fragment
        if not set(smiles) & set(".+-@/\\") and "[" not in smiles:
            assert found == MurckoScaffold.MurckoScaffoldSmiles(smiles)
    ringed = table[table["scaffold"] != ""]
    assert len(ringed) > 200
    assert ringed.groupby("scaffold")["split"].nunique().max() == 1
    assert ringed["split"].nunique() == 3
    # without rings there is no scaffold to go by: such molecules are spread by their constitution
    assert table[table["scaffold"] == ""]["split"].nunique() == 3
    # and it is a difference: by constitution, scaffolds do straddle
    ringed = tables["constitution"][tables["constitution"]["scaffold"] != ""]
    assert ringed.groupby("scaffold")["split"].nunique().max() == 3


def _scaffolds(folder):
    return pa.concat_arrays([part.combine_chunks() for part in scaffolds.stream(folder)]).to_pylist()


def test_the_group_of_a_kept_molecule_follows_from_its_row(section, tmp_path):
    settings = {"source": "file", "path": str(SMOKE), "column": "smiles", "validation": 0.1, "test": 0.1}
    table = pd.read_csv(SMOKE)["smiles"].tolist()
    salts = ["CC(=O)[O-].[Na+]", "C[N+](C)(C)C.[Cl-]", "N[C@@H](C)C(=O)O.Cl", "[2H]OC([2H])[2H]", "CCO.CCN.CCO"]
    for split_by, rule in (
        ("constitution", constitution),
        ("scaffold", lambda mol: framework(mol) or constitution(mol)),
    ):
        policy = section(kind="molecules", stereo="keep", fragments="keep", split_by=split_by, **settings)
        made = [
            found
            for smiles in table + salts
            if isinstance(found := molecules.convert(smiles, policy), molecules.Converted)
        ]
        assert len(made) > 600
        assert [rule(Chem.MolFromSmiles(found.smiles)) for found in made] == [found.group for found in made]


def test_scaffolds_are_not_computed_unless_asked_for(section, build, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(molecules, "framework", lambda molecule: pytest.fail("a framework was computed"))
    told = section(kind="molecules", source="file", path=str(SMOKE), column="smiles", validation=0.1, test=0.1)
    build(told, tmp_path / "out")
    assert not (tmp_path / "out" / "scaffolds").exists()
    with pytest.raises(DataError, match=r"no scaffolds\.json"):
        scaffolds.read_record(tmp_path / "out")


def test_scaffolds_change_neither_the_data_nor_their_name(section):
    settings = {"kind": "molecules", "source": "file", "path": str(SMOKE), "column": "smiles"}
    settings |= {"validation": 0.1, "test": 0.1}
    assert section(scaffolds=True, **settings) == section(**settings)


# --- the time limit of a row ------------------------------------------------------------------------------------------

SLOW = "CCCCCCO"


def _unit_with_a_slow_row(unit):
    """What a worker does with a unit, if one molecule takes for ever."""
    convert = molecules.convert

    def slowly(smiles, section):
        while smiles == SLOW:
            pass
        return convert(smiles, section)

    molecules.convert, molecules.ROW_SECONDS = slowly, 0.3
    return molecules._convert_unit(unit)


def test_a_row_beyond_its_time_is_named_and_not_tried_again(own_file, build, tmp_path, monkeypatch):
    monkeypatch.setattr(molecules, "UNIT_ROWS", 4)
    told = own_file(["CCO", SLOW, "CCC", "CCN", "CN", SLOW, "CF"], max_reject_share=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(molecules, "_convert_unit", _unit_with_a_slow_row)
        manifest = build(told, tmp_path / "out", workers=2)
    assert manifest["rejected"] == {"over_time_limit": 2}
    assert manifest["over_time_limit"] == [hashlib.blake2b(SLOW.encode(), digest_size=16).hexdigest()] * 2
    assert sorted(_shards(tmp_path / "out")["smiles"]) == ["CCC", "CCN", "CCO", "CF", "CN"]
    before = (tmp_path / "out" / "manifest.json").read_bytes()

    # a faster machine, or other code, makes the same data: it doesn't try
    convert = molecules.convert

    def untried(smiles, section):
        assert smiles != SLOW
        return convert(smiles, section)

    monkeypatch.setattr(molecules, "convert", untried)
    for module in ("molecules", "assemble"):
        monkeypatch.setattr(
            f"chemscale.data.{module}.ordered_map", lambda work, tasks, workers, retry=None: map(work, tasks)
        )
    again = build(told, tmp_path / "out", code="other")
    assert again["over_time_limit"] == manifest["over_time_limit"]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
