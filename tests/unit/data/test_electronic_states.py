"""Charge and spin of users' frames: spellings of the field, contradictions, and every format that states them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from chemscale.data.blocks import Rejected
from chemscale.data.electronic_states import ElectronicStates, charge_of_smiles, statements
from chemscale.data.structures import Structure, read

h5py = pytest.importorskip("h5py")

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"
METHANE, METHYL = np.array([6, 1, 1, 1, 1]), np.array([6, 1, 1, 1])
POSITIONS = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]], dtype=float
)


def nothing_else(key):
    return ()


def reason(numbers=METHANE, others=nothing_else, **stated):
    """The reason to reject a frame that states something, or None."""
    refusal = ElectronicStates().refusal(numbers, statements(stated), others)
    return None if refusal is None else refusal.reason


def outcome(path, parser="extxyz", section=None):
    """The number of kept frames, the rejected ones by reason, and the warnings."""
    located = {"files": [str(path)], "parser": parser, "energy_unit": "eV", "length_unit": "angstrom"}
    states = ElectronicStates()
    rejected: Counter[str] = Counter()
    kept = 0
    for item in read(located, section or {}, states):
        if isinstance(item, Rejected):
            rejected[item.reason] += item.count
        else:
            kept += isinstance(item, Structure)
    return kept, dict(rejected), states.warnings()


# keys that programs and data sets write, with a value of a neutral singlet, one of another molecule, and the reason
WRITTEN = [
    *(
        (key, 0, -1, "charged")
        for key in (
            *("charge", "Charge", "CHARGE", "total_charge", "TotalCharge", "tot_charge", "total-charge", "net_charge"),
            *("molecular_charge", "system_charge", "Q", "q", "q_tot", "qtot", "chrg", "formal_charge", "REF_charge"),
            *("REF_total_charge", "dft_total_charge", "charge (e)", "info.charge", "total charge"),
        )
    ),
    *(
        (key, 1, 3, "open_shell")
        for key in (
            *("multiplicity", "Multiplicity", "mult", "spin_multiplicity", "spinMultiplicity", "spin_mult"),
            *("molecular_multiplicity", "2S+1", "REF_multiplicity", "spin", "total_spin"),
        )
    ),
    *(
        (key, 0, 2, "open_shell")
        for key in (
            *("uhf", "unpaired_electrons", "n_unpaired", "num_unpaired_electrons", "n_unpaired_electrons", "spin", "S"),
            *("magmom", "total_magmom", "tot_magnetization", "total_magnetization", "total_spin", "spin_state", "2S"),
        )
    ),
    ("spin_quantum_number", 0, 0.5, "open_shell"),
    ("spin", 0, 0.5, "open_shell"),
    ("magmom", 0.02, 1.98, "open_shell"),
    ("nelec", [5, 5], [6, 4], "open_shell"),
    ("nelec", 10, [6, 4], "open_shell"),
]


@pytest.mark.parametrize(("key", "neutral", "other", "why"), WRITTEN, ids=lambda value: str(value))
def test_spellings_of_the_field(key, neutral, other, why):
    for spelled in (key, key.upper() if len(key) > 1 else key):
        assert reason(**{spelled: neutral}) is None
        assert reason(**{spelled: other}) == why
        # JSON, HDF5 and calculators give arrays of one value, text and floats, too
        if np.ndim(other) == 0:
            assert reason(**{spelled: np.array([float(other)])}) == why
            assert reason(**{spelled: str(other)}) == why


PER_ATOM = [
    ("initial_charges", [0.4, -0.1, -0.1, -0.1, -0.1], [1, 0, 0, 0, 0], "charged"),
    ("charges", [-0.42, 0.11, 0.11, 0.11, 0.11], [-0.44, -0.14, -0.14, -0.14, -0.14], "charged"),
    ("mulliken_charges", [-0.42, 0.1, 0.1, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1, 0.1], "charged"),
    ("mbis_charges", [[0.4], [-0.1], [-0.1], [-0.1], [-0.1]], [[0.2], [0.2], [0.2], [0.2], [0.2]], "charged"),
    ("charge", [0.4, -0.1, -0.1, -0.1, -0.1], [-1, 0, 0, 0, 0], "charged"),
    ("q", [0.4, -0.1, -0.1, -0.1, -0.1], [-1, 0, 0, 0, 0], "charged"),
    ("charges", [0, 0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1, 0.1], "fractional_charge"),
    ("initial_magmoms", [0, 0, 0, 0, 0], [2, 0, 0, 0, 0], "open_shell"),
    ("magmoms", [0.001, 0, 0, 0, -0.001], [1.6, 0.1, 0.1, 0.1, 0.1], "open_shell"),
    ("magmoms", [[0, 0, 0]] * 5, [[0, 0, 2], *[[0, 0, 0]] * 4], "open_shell"),
    ("magmoms", [0, 0, 0, 0, 0], [1, -1, 0, 0, 0], "open_shell"),
    ("spins", [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], "open_shell"),
    ("mulliken_spins", [0, 0, 0, 0, 0], [0.6, 0, 0, 0, 0], "unclear_spin"),
]


@pytest.mark.parametrize(("key", "neutral", "other", "why"), PER_ATOM, ids=lambda value: str(value)[:20])
def test_values_for_each_atom_count_by_their_sum(key, neutral, other, why):
    assert reason(**{key: np.array(neutral)}) is None
    assert reason(**{key: np.array(other)}) == why
    assert reason(**{key: np.full(5, np.nan)}) is None  # not computed
    assert reason(**{key: np.array([np.nan, 0, 0, 0, 1.0])}) in ("unclear_charge", "unclear_spin")


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ({"charge": 0, "total_charge": 1}, "unclear_charge"),
        ({"charge": 1, "Charge": -1}, "unclear_charge"),
        ({"charge": 1, "total_charge": 1, "multiplicity": 2}, "charged"),
        ({"charge": 0, "initial_charges": [1, 0, 0, 0, 0]}, "unclear_charge"),
        ({"charges": [1, 0, 0, 0, 0], "mulliken_charges": [0.1, -0.1, 0.01, 0, 0]}, "unclear_charge"),
        # a default of ASE is no statement
        ({"initial_charges": [0, 0, 0, 0, 0], "total_charge": 1}, "charged"),
        # populations need not add up where the total is stated
        ({"charge": 0, "bader_charges": [0.4, 0, 0, 0, 0]}, None),
        ({"charge": "neutral"}, "unclear_charge"),
        ({"charge": float("nan")}, "unclear_charge"),
        ({"charge": True}, "unclear_charge"),
        ({"charge": None, "multiplicity": None}, None),
        ({"charge": [0, 1]}, "unclear_charge"),
        ({"charge": [[0], [0, 1]]}, "unclear_charge"),
        ({"charge": 0.5}, "fractional_charge"),
        ({"charge": 10**400}, "unclear_charge"),
        ({"charges": [1e308] * 5}, "unclear_charge"),
        ({"spin_quantum_number": 1e308}, "unclear_spin"),
        ({"multiplicity": 0}, "unclear_spin"),
        ({"multiplicity": 1.5}, "unclear_spin"),
        ({"multiplicity": "T"}, "unclear_spin"),
        ({"multiplicity": 1, "unpaired_electrons": 2}, "unclear_spin"),
        ({"multiplicity": 3, "unpaired_electrons": 2}, "open_shell"),
        ({"multiplicity": 3, "spin": 3}, "open_shell"),
        ({"multiplicity": 3, "spin": 1}, "open_shell"),
        ({"multiplicity": 1, "spin": 0}, None),
        ({"multiplicity": 1, "spin": 1}, None),
        ({"multiplicity": 1, "spin": 2}, "unclear_spin"),
        ({"spin": 0.3}, "unclear_spin"),
        ({"n_alpha": 5, "n_beta": 5}, None),
        ({"n_alpha": 6, "n_beta": 4}, "open_shell"),
        ({"magmom": 0.4}, "unclear_spin"),
        # a spin of 0 is stated, so that cancelling moments are those of a singlet
        ({"multiplicity": 1, "magmoms": [1, -1, 0, 0, 0]}, None),
        ({"magmom": 0.0, "magmoms": [1, -1, 0, 0, 0]}, "open_shell"),
        ({"data": {"charge": 1}}, "charged"),
        ({"data": {"calculation": {"spin_multiplicity": 3}}}, "open_shell"),
        ({"charge": 0, "data": {"charge": -1}}, "unclear_charge"),
        ({"wb97m_d3bj_total_charge": 1, "b3lyp/multiplicity": 1}, "charged"),
        ({"spin": "Singlet", "multiplicity": "singlet"}, None),
        ({"spin_state": "triplet"}, "open_shell"),
        # what only looks alike
        ({"nuclear_charges": [6, 1, 1, 1, 1], "born_effective_charges": np.ones((5, 3, 3))}, None),
        ({"S": 231.6, "Q": np.eye(3)}, None),
    ],
    ids=str,
)
def test_contradictions_and_values_that_are_no_numbers(stated, why):
    assert reason(**stated) == why


def test_multiplicity_and_the_number_of_electrons():
    # nine electrons: a doublet at least
    assert reason(METHYL) is None
    assert reason(METHYL, multiplicity=2) == "open_shell"
    assert reason(METHYL, spin=1) == "open_shell"
    assert reason(METHYL, spin=2) == "open_shell"
    assert reason(METHYL, multiplicity=1) == "unclear_spin"
    assert reason(METHYL, spin=0) == "unclear_spin"
    assert reason(METHYL, charge=0) is None


def test_a_radical_that_states_nothing_is_kept_with_a_warning():
    states = ElectronicStates()
    for numbers in (METHANE, METHYL, METHYL):
        assert states.refusal(numbers, {}, nothing_else) is None
    (warning,) = states.warnings()
    assert "an odd number of electrons" in warning
    assert "frames: 2" in warning


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, 1, 1], 3),  # multiplicities, as in OMol25
        ([1, 3, 1], 2),
        ([0, 1, 0], 2),  # S: 1 is a triplet
        ([1, 0], 1),
        ([1, 0.5], 0),
        ([1, 2], 0),  # of an even number of electrons no multiplicity
        ([1, -1], 0),
    ],
    ids=str,
)
def test_what_spin_1_means_depends_on_the_other_frames(tmp_path, values, kept):
    path = xyz(tmp_path, *(f"spin={value}" for value in values))
    found, rejected, warnings = outcome(path)
    assert found == kept
    assert rejected == ({"open_shell": len(values) - kept} if kept < len(values) else {})
    multiplicities = all(value in (1, 3) for value in values)
    assert ["spin = 1 was taken as the multiplicity" in warning for warning in warnings] == [True] * multiplicities


@pytest.mark.parametrize(("charge", "kept", "reason"), [(1, 1, "charged"), (0, 0, "open_shell")])
def test_the_multiplicity_of_an_ion_has_the_parity_of_its_own_electrons(tmp_path, charge, kept, reason):
    # a doublet of nine electrons, as the cation has them; the neutral molecule has ten
    path = xyz(tmp_path, "spin=1 charge=0", f"spin=2 charge={charge}")
    assert outcome(path)[:2] == (kept, {reason: 2 - kept})


def test_keys_that_are_not_known_are_warned_about():
    states = ElectronicStates()
    assert states.refusal(METHANE, statements({"my_chargeness": 3, "colour": 3}), nothing_else) is None
    assert states.warnings() == ["the key 'my_chargeness' looks like charge or spin, but is not known: it was ignored"
                                 " (frames: 1)"]  # fmt: skip
    for number in range(10_000):
        states.refusal(METHANE, {f"charge_{number}_of": 1}, nothing_else)
    assert len(states.warnings()) <= 21
    assert sum(int(line.rpartition(" ")[2].rstrip(")").replace(",", "")) for line in states.warnings()) == 10_001


# --- files ------------------------------------------------------------------------------------------------------------


def xyz(folder, *comments, columns="", values=()):
    """Frames of methane in extended XYZ, each with a comment of its own."""
    lines = []
    for number, comment in enumerate(comments):
        lines += ["5", f"Properties=species:S:1:pos:R:3:forces:R:3{columns} energy=-{number}.5 {comment}"]
        lines += [
            f"{symbol} {' '.join(map(str, position))} 0.1 0.2 0.3 {value}"
            for symbol, position, value in zip("CHHHH", POSITIONS + 0.01 * number, values or [""] * 5, strict=True)
        ]
    path = folder / "own.xyz"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_frames_that_came_out_as_neutral_singlets():
    assert outcome(FAULTS / "charge_total_charge.xyz")[:2] == (0, {"charged": 4})
    assert outcome(FAULTS / "charge_spin.xyz")[:2] == (0, {"open_shell": 4})


def test_extended_xyz_with_columns(tmp_path):
    for column, values, expected in [
        ("charge", [1, 0, 0, 0, 0], (0, {"charged": 1})),
        ("initial_charges", [-0.4, 0.1, 0.1, 0.1, 0.1], (1, {})),
        ("initial_charges", [0, 0, 0, 0, -1], (0, {"charged": 1})),
        ("initial_magmoms", [2, 0, 0, 0, 0], (0, {"open_shell": 1})),
        ("magmoms", [2, 0, 0, 0, 0], (0, {"open_shell": 1})),
        ("REF_charges", [0.3, 0, 0, 0, 0], (0, {"fractional_charge": 1})),
    ]:
        path = xyz(tmp_path, "", columns=f":{column}:R:1", values=values)
        assert outcome(path)[:2] == expected


@pytest.mark.parametrize(
    "smiles",
    ["C", "[NH4+]", "C[N+](=O)[O-]", "[Cu+2]", "[Fe++]", "[13CH3-]", "[O-:1]C", "C[N+:7](C)(C)C", "[C@@H](F)(Cl)Br",
     "[C-]#[O+]", "[NH3+]CC(=O)[O-]", "[O-]S(=O)(=O)[O-]", "[2H]C", "[Na+].[Cl-]", "[NH4+].[NH4+].[O-]C=O"],
)  # fmt: skip
def test_the_charge_of_a_smiles_is_that_of_rdkit(smiles):
    from rdkit import Chem

    assert charge_of_smiles(smiles) == Chem.GetFormalCharge(Chem.MolFromSmiles(smiles))


def test_a_smiles_of_an_ion_states_a_charge(tmp_path):
    path = xyz(tmp_path, 'smiles="C"', 'smiles="[CH4+]"', 'smiles="[CH4+]" charge=0')
    assert outcome(path)[:2] == (1, {"charged": 1, "unclear_charge": 1})


def atoms_of(**changes):
    atoms = Atoms(METHANE, POSITIONS, **changes)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((5, 3), 0.1))
    return atoms


def test_databases_of_ase(tmp_path):
    neutral = [
        (atoms_of(), {}),
        (atoms_of(charges=[0.4, -0.1, -0.1, -0.1, -0.1]), {"total_charge": 0}),
        (atoms_of(), {"data": {"multiplicity": 1, "charge": np.array([0])}}),
    ]
    charged = [
        (atoms_of(charges=[1, 0, 0, 0, 0]), {}),
        (atoms_of(), {"total_charge": 1}),
        (atoms_of(), {"data": {"charge": -1}}),
        (atoms_of(), {"data": {"info": {"charge": -1}}}),
    ]
    open_shell = [
        (atoms_of(magmoms=[2, 0, 0, 0, 0]), {}),
        (atoms_of(), {"multiplicity": 3}),
        (atoms_of(), {"data": {"magnetic_moments": np.array([0, 0, 0, 0, 2.0])}}),
    ]
    calculated = atoms_of()
    calculated.calc.results["magmom"] = 2.0
    open_shell.append((calculated, {}))
    told = atoms_of()
    told.calc.parameters = {"charge": 0, "multiplicity": 3}
    open_shell.append((told, {}))
    neutral.append((atoms_of(), {}))
    neutral[-1][0].calc.parameters = {"charge": None, "multiplicity": None, "spin": "none", "spins": True}
    path = tmp_path / "own.db"
    with ase.db.connect(path) as database:
        for atoms, written in neutral + charged + open_shell:
            database.write(atoms, **written)
    assert outcome(path, "ase_db")[:2] == (4, {"charged": 4, "open_shell": 5})


def test_the_column_charge_of_a_database(tmp_path):
    path = tmp_path / "own.db"
    with ase.db.connect(path) as database:
        database.write(atoms_of())
        database.write(atoms_of(), total_charge=1)
    # ASE writes 0 where nobody said anything: it does not contradict the second row
    assert outcome(path, "ase_db")[:2] == (1, {"charged": 1})
    with ase.db.connect(path) as database, database.managed_connection() as connection:
        connection.execute("UPDATE systems SET charge = -1 WHERE id = 1")
    assert outcome(path, "ase_db")[:2] == (0, {"charged": 2})


FRAMES = 6
ARRAYS = [
    ({}, {}),
    ({"charge": np.array(0)}, {}),
    ({"charge": np.array(1)}, {"charged": 6}),
    ({"charge": np.array([0, 0, 1, -1, 0, 0])}, {"charged": 2}),
    ({"Q": np.array([[0], [0], [1], [-1], [0], [0]])}, {"charged": 2}),
    ({"charges": np.tile([0.4, -0.1, -0.1, -0.1, -0.1], (FRAMES, 1))}, {}),
    ({"charges": np.tile([1.0, 0, 0, 0, 0], (FRAMES, 1))}, {"charged": 6}),
    ({"initial_charges": np.array([1.0, 0, 0, 0, 0])}, {"charged": 6}),
    ({"multiplicity": np.array([1, 1, 1, 3, 3, 1])}, {"open_shell": 2}),
    ({"total_charge": np.zeros((2, 7))}, {"unclear_charge": 6}),
]


@pytest.mark.parametrize(("stated", "rejected"), ARRAYS, ids=lambda value: " ".join(value) or "none")
@pytest.mark.parametrize("parser", ["md17", "rmd17", "ani1x"])
@pytest.mark.parametrize("parts", [100, 1_000_000])
def test_arrays(tmp_path, monkeypatch, parser, stated, rejected, parts):
    monkeypatch.setattr("chemscale.data.published_frames._DISTANCES", parts)
    positions = POSITIONS + 0.01 * np.random.default_rng(0).normal(size=(FRAMES, 5, 3))
    arrays = {
        "numbers": METHANE,
        "positions": positions,
        "energies": np.zeros(FRAMES),
        "forces": np.zeros_like(positions),
    }
    keys = {
        "md17": ("z", "R", "E", "F"),
        "rmd17": ("nuclear_charges", "coords", "energies", "forces"),
        "ani1x": ("atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces"),
    }[parser]
    named = dict(zip(keys, arrays.values(), strict=True)) | stated
    if parser == "ani1x":
        path = tmp_path / "own.h5"
        with h5py.File(path, "w") as file:
            for key, value in named.items():
                file[f"CH4/{key}"] = value
    else:
        path = tmp_path / "own.npz"
        np.savez(path, **named, **({"old_indices": np.arange(FRAMES)} if parser == "rmd17" else {}))
    assert outcome(path, parser) == (FRAMES - sum(rejected.values()), rejected, [])
    # published sets are known to be neutral singlets: what they hold beside is not looked at
    assert outcome(path, parser, {"source": parser}) == (FRAMES, {}, [])


def test_attributes_of_hdf5(tmp_path):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        for name, charge in (("a", 0), ("b", -1)):
            group = file.create_group(name)
            group["atomic_numbers"], group["coordinates"] = METHANE, POSITIONS[None]
            group["wb97x_dz.energy"], group["wb97x_dz.forces"] = np.zeros(1), np.zeros((1, 5, 3))
            group.attrs["charge"] = charge
    assert outcome(path, "ani1x")[:2] == (1, {"charged": 1})
