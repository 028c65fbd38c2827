"""Charge and spin of users' frames: the spellings that the field uses, and what they say about a frame.

chemscale trains on neutral singlets: its shards have no column for charge or spin, so a frame that states anything else
is rejected, with a reason:

- charged: the total charge is not 0;
- fractional_charge: the total charge, or the sum of charges per atom where nothing else states the total, is not whole;
- open_shell: there are unpaired electrons;
- unclear_charge, unclear_spin: a value is not a number, values contradict each other, or there cannot be as many
  unpaired electrons in the neutral molecule.

A frame that states nothing is taken as neutral, and in its lowest spin state.

Rules, by meaning of a key:

- Charges per atom may be partial charges, so their sum counts. It may be off by `SUM_TOLERANCE`. A stated total
  outranks a sum that is not whole; arrays of zeros alone, which ASE writes where nobody set any, and of NaN alone state
  nothing.
- Magnetic moments per atom count by their sum in the same way. Moments that cancel each other belong to a singlet only
  where the frame states its spin under another key.
- `spin` is a multiplicity in OMol25, fairchem and MACE, S in other files and a number of unpaired electrons in PySCF.
  0 and 1 are the only values that can mean a singlet. `spin: 1` on an even number of electrons is the multiplicity 1,
  unless the same key somewhere in the source holds what cannot be a multiplicity: 0, 0.5, or 2 on an even number of
  electrons. Then it is S = 1, a triplet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.blocks import as_array
from chemscale.errors import shown

# in e and in electrons: populations are often printed with two or three decimals, and grids integrate no better
SUM_TOLERANCE = 0.1
_WHOLE_TOLERANCE = 0.01
_LARGEST = 1e6  # no molecule has more charges or unpaired electrons
_DEEPEST = 4  # of dictionaries inside a frame's values
_LONGEST = 300  # characters of a warning
_MOST = 20  # different warnings, and keys whose meaning is looked up in other frames


class Meaning(Enum):
    """What a key holds; for charges and moments, values per atom count by their sum."""

    CHARGE = auto()  # in e
    MULTIPLICITY = auto()  # 2S + 1
    UNPAIRED = auto()  # number of unpaired electrons; of a pair of numbers the difference
    QUANTUM_NUMBER = auto()  # S
    MOMENT = auto()  # in Bohr magnetons: as many as unpaired electrons
    SPIN = auto()  # a multiplicity, S or unpaired electrons
    ALPHA = auto()  # number of electrons of one spin
    BETA = auto()
    NEITHER = auto()  # looks like charge or spin, and says nothing of the molecule's


# Capitals, underscores, hyphens, blanks, and what a prefix of `_PREFIX` adds, do not matter. Sources: ASE (arrays,
# results, database columns, parameters of calculators), MACE and torch-sim (total_charge, total_spin, charges),
# fairchem and OMol25 (charge, spin), QCSchema and Psi4 (molecular_charge, molecular_multiplicity), cclib and ORCA
# (charge, mult), xtb (chrg, uhf), tblite (charge, multiplicity), PySCF (charge, spin, nelec), AIMNet2 (charge, mult),
# SpookyNet and PhysNet (Q, S), tmQM (q, S), SchNetPack (total_charge, spin_multiplicity), RDKit (formal_charge),
# SPICE and ANI-1x (mbis_charges and others), Quantum ESPRESSO and VASP (tot_charge, tot_magnetization)
SPELLINGS: dict[Meaning, tuple[str, ...]] = {
    Meaning.CHARGE: (
        *("charge", "charges", "q", "chg", "chrg", "total_charge", "total_charges", "tot_charge", "charge_total"),
        *("total_q", "q_total", "q_tot", "tot_q", "net_charge", "net_q", "molecular_charge", "molecule_charge"),
        *("mol_charge", "system_charge", "charge_system", "overall_charge", "global_charge", "cell_charge"),
        *("ionic_charge", "ion_charge", "charge_state", "formal_charge", "total_formal_charge", "formal_charges"),
        *(
            "charge_of_smiles",
            "charge_sum",
            "sum_charge",
            "charge_e",
            "total_charge_e",
            "total_molecular_charge",
            "net_molecular_charge",
        ),
        *("initial_charge", "initial_charges", "partial_charge", "partial_charges", "atomic_charge"),
        *("atomic_charges", "atom_charge", "atom_charges", "atomic_partial_charges", "point_charges"),
        *(
            f"{scheme}_charge{end}"
            for scheme in (
                *("mulliken", "lowdin", "loewdin", "nbo", "npa", "nao", "natural", "hirshfeld", "iterative_hirshfeld"),
                *("mbis", "cm5", "esp", "resp", "chelpg", "mk", "bader", "ddec", "ddec6", "eeq", "am1bcc", "gasteiger"),
                *("voronoi", "vdd", "becke", "stockholder"),
            )
            for end in ("", "s")
        ),
    ),
    Meaning.MULTIPLICITY: (
        *("multiplicity", "mult", "spin_multiplicity", "spin_mult", "spinmult", "total_multiplicity"),
        *("molecular_multiplicity", "molecule_multiplicity", "mol_multiplicity", "system_multiplicity"),
        *("multiplicity_spin", "total_spin_multiplicity", "electronic_multiplicity", "2s+1"),
    ),
    Meaning.UNPAIRED: (
        *("uhf", "n_uhf", "unpaired", "n_unpaired", "num_unpaired", "nunp", "unpaired_electrons", "nopen", "n_open"),
        *("n_unpaired_electrons", "num_unpaired_electrons", "number_of_unpaired_electrons", "unpaired_electron"),
        *("number_unpaired_electrons", "total_unpaired_electrons", "n_unpaired_e", "nelec", "n_elec", "2s", "two_s"),
        *("open_shell_electrons", "n_alpha_minus_beta", "alpha_minus_beta", "nelec_alpha_minus_beta"),
    ),
    Meaning.QUANTUM_NUMBER: ("spin_quantum_number", "total_spin_quantum_number", "s_quantum_number"),
    Meaning.MOMENT: (
        *("magmom", "magmoms", "mag_mom", "total_magmom", "tot_magmom", "initial_magmom", "initial_magmoms"),
        *("magnetic_moment", "magnetic_moments", "total_magnetic_moment", "magmom_total", "total_mag", "tot_mag"),
        *("magnetization", "magnetisation", "total_magnetization", "total_magnetisation", "tot_magnetization"),
        *("initial_magnetic_moment", "initial_magnetic_moments", "fixed_spin_moment", "spin_moment", "spin_moments"),
        *("mulliken_spin", "mulliken_spins", "lowdin_spin", "lowdin_spins", "loewdin_spins", "nbo_spins"),
        *("hirshfeld_spins", "mbis_spins", "spin_charges", "spin_populations", "spin_population", "spin_densities"),
        *("atomic_spins", "atomic_spin", "atom_spins"),
    ),
    Meaning.SPIN: (
        *("spin", "spins", "s", "total_spin", "tot_spin", "spin_total", "spin_state", "molecular_spin", "net_spin"),
        *("system_spin", "molecule_spin", "mol_spin", "overall_spin", "electronic_spin", "s_tot", "s_total"),
    ),
    Meaning.ALPHA: (
        *("n_alpha", "num_alpha", "nelec_alpha", "n_elec_alpha", "alpha_electrons", "n_alpha_electrons", "nalpha_elec"),
        *("num_alpha_electrons", "number_of_alpha_electrons", "electrons_alpha", "n_up", "nelec_up"),
    ),
    Meaning.BETA: (
        *("n_beta", "num_beta", "nelec_beta", "n_elec_beta", "beta_electrons", "n_beta_electrons", "nbeta_elec"),
        *("num_beta_electrons", "number_of_beta_electrons", "electrons_beta", "n_down", "nelec_down"),
    ),
    Meaning.NEITHER: (
        *("nuclear_charge", "nuclear_charges", "effective_nuclear_charge", "effective_nuclear_charges", "core_charge"),
        *("core_charges", "born_effective_charges", "spin_polarized", "spin_polarised", "spinpol", "nspin", "nspins"),
        *("charge_density", "spin_orbit"),
    ),
}
_PREFIX = re.compile(
    r"^(?:ref|reference|dft|qm|qc|scf|xtb|gfn1|gfn2|orca|psi4|mace|aimnet|nequip|spice|omol|target|label|true|calc|pred)"
)
# after whatever else, as a level of theory
_END = re.compile("(?:totalcharge|netcharge|molecularcharge|multiplicity|unpairedelectrons|totalspin)$")
_SUSPICIOUS = re.compile("charge|spin|multiplicit|magmom|magneti|unpaired")
_SMILES_CHARGE = re.compile(r"\[[^\[\]+-]*(\++|-+)([0-9]{0,2})(?::[0-9]+)?\]")
# single letters may well stand for something else: what cannot be charge or spin is no statement
_LETTERS = ("q", "s")
_WORDS = {"singlet": 1, "doublet": 2, "triplet": 3, "quartet": 4, "quintet": 5, "sextet": 6, "septet": 7}
# where such a key holds one number and not those of both spins
_ALL_ELECTRONS = ("nelec",)


@dataclass(frozen=True)
class Refusal:
    """The reason why a frame is rejected, and the keys and values behind it."""

    reason: str
    note: str


class _RefusedError(Exception):
    """Ends the look at a frame that is rejected."""

    def __init__(self, reason: str, note: str) -> None:
        super().__init__(note)
        self.refusal = Refusal(reason, note)


# gives the atomic numbers and the statements of every frame of the source that has a key
Others = Callable[[str], Iterable[tuple[NDArray[Any], Mapping[str, Any]]]]


class ElectronicStates:
    """Judges the charge and spin of one frame after another, and remembers what to warn about."""

    def __init__(self) -> None:
        self._frames: Counter[str] = Counter()
        self._multiplicities: dict[str, bool] = {}

    def refusal(self, numbers: NDArray[Any], stated: Mapping[str, Any], others: Others) -> Refusal | None:
        """The reason to reject a frame, or None for a neutral singlet.

        Args:
            numbers: atomic numbers [A].
            stated: values by key, as `statements` chooses them.
            others: gives the atomic numbers and the statements of every frame of the source that has a key; it is
                called once for a key where only other frames tell what `spin: 1` means.
        """
        by_meaning: dict[Meaning, dict[str, Any]] = {meaning: {} for meaning in Meaning}
        for key, value in stated.items():
            meaning = _meaning(key)
            if value is None:
                continue  # as JSON and calculators have it where nothing was set
            if meaning is None:
                self._warn(f"the key {_short(key)} looks like charge or spin, but is not known: it was ignored")
            elif _plain(key) in _LETTERS and not _fits_letter(meaning, value, len(numbers)):
                self._warn(f"the key {_short(key)} holds neither charges nor spins, by its values: it was ignored")
            elif meaning in (Meaning.SPIN, Meaning.MULTIPLICITY) and str(value).lower() in _WORDS:
                by_meaning[Meaning.MULTIPLICITY][key] = _WORDS[str(value).lower()]
            else:
                by_meaning[meaning][key] = value
        try:
            self._check_charge(by_meaning[Meaning.CHARGE], len(numbers))
            self._check_spin(by_meaning, np.asarray(numbers), others)
        except _RefusedError as refused:
            return refused.refusal
        return None

    def warnings(self) -> list[str]:
        """A sentence for everything that was ignored or assumed, with the number of frames."""
        return [f"{text} (frames: {frames:,})" for text, frames in sorted(self._frames.items())]

    def _warn(self, text: str) -> None:
        text = shown(text, _LONGEST)
        if text not in self._frames and len(self._frames) >= _MOST:
            text = "more keys look like charge or spin, but are not known: they were ignored"
        self._frames[text] += 1

    def _check_charge(self, stated: Mapping[str, Any], atoms: int) -> None:
        whole: dict[str, int] = {}
        broken: dict[str, float] = {}
        totals_known = False
        for key, value in stated.items():
            array = _per_atom(value, atoms)
            if array is None:
                number = _number(value, "unclear_charge", key)
                if abs(number - round(number)) > _WHOLE_TOLERANCE:
                    raise _RefusedError("fractional_charge", f"{key} is {number:g}")
                whole[key], totals_known = round(number), True
            elif not _says_nothing(array):
                total = _sum(array, "unclear_charge", key)
                if abs(total - round(total)) <= SUM_TOLERANCE:
                    whole[key] = round(total)
                else:
                    broken[key] = total
        if len(set(whole.values())) > 1:
            raise _RefusedError("unclear_charge", f"values contradict each other: {_listed(whole)}")
        for key, total in broken.items():
            if not whole:
                raise _RefusedError("fractional_charge", f"the sum of {key} is {total:.3g}, which is not whole")
            self._warn(f"the sum of {key} is not whole: it was ignored, since {next(iter(whole))} is")
        if any(whole.values()):
            raise _RefusedError("charged", _listed(whole) if totals_known else f"by their sum, {_listed(whole)}")

    def _check_spin(self, stated: Mapping[Meaning, Mapping[str, Any]], numbers: NDArray[Any], others: Others) -> None:
        unpaired = _unpaired(stated)
        undecided, moments = {}, dict(stated[Meaning.MOMENT])
        for key, value in stated[Meaning.SPIN].items():
            if _per_atom(value, len(numbers), vectors=True) is not None:
                moments[key] = value
                continue
            undecided[key] = _number(value, "unclear_spin", key)
            if not _is_half_whole(undecided[key]):
                raise _RefusedError("unclear_spin", f"{key} is {undecided[key]:g}")
        unpaired |= _unpaired_by_moments(moments, len(numbers), known=bool(unpaired or undecided))
        if len(set(unpaired.values())) > 1:
            raise _RefusedError("unclear_spin", f"unpaired electrons contradict each other: {_listed(unpaired)}")
        electrons = int(numbers.sum())
        count = next(iter(unpaired.values()), None)
        for key, spin in undecided.items():
            if count is not None:
                if abs(spin) not in (count, count + 1, count / 2):
                    raise _RefusedError(
                        "unclear_spin", f"{key} is {spin:g}, and unpaired electrons {_listed(unpaired)}"
                    )
            elif spin == 1 and electrons % 2 == 0 and self._is_multiplicity(key, others):
                self._warn(f"{key} = 1 was taken as the multiplicity of a singlet")
            elif spin != 0:
                raise _RefusedError("open_shell", f"{key} is {spin:g}")
        if count:
            raise _RefusedError("open_shell", f"unpaired electrons by {_listed(unpaired)}")
        if electrons % 2 == 0:
            return
        if keys := [*unpaired, *undecided]:
            raise _RefusedError("unclear_spin", f"by {keys[0]} all of {electrons} electrons are paired")
        self._warn("an odd number of electrons, and no spin stated: a radical, or an ion")

    def _is_multiplicity(self, key: str, others: Others) -> bool:
        if key not in self._multiplicities:
            if len(self._multiplicities) >= _MOST:
                return False  # each key takes a pass over the source
            self._multiplicities[key] = not any(_is_no_multiplicity(key, *frame) for frame in others(key))
        return self._multiplicities[key]


def statements(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose keys tell of charge or spin, or look like it; what a dictionary holds has a key with dots."""
    return {
        key: value
        for key, value in _flat(properties, "", 0)
        if _meaning(key) not in (None, Meaning.NEITHER) or (_meaning(key) is None and _SUSPICIOUS.search(_plain(key)))
    }


def charge_of_smiles(smiles: str) -> int:
    """The sum of the charges that a SMILES writes at its atoms."""
    found = _SMILES_CHARGE.findall(smiles)
    return sum((len(signs) * int(number or 1)) * (1 if signs[0] == "+" else -1) for signs, number in found)


def is_known(key: str) -> bool:
    """Whether the meaning of a key is known."""
    return _meaning(key) is not None


def _flat(properties: Mapping[str, Any], before: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in properties.items():
        if isinstance(value, Mapping):
            if depth < _DEEPEST:
                yield from _flat(value, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}", value


@lru_cache(4096)
def _plain(key: str) -> str:
    """A key without capitals, marks, units in brackets, and what stands before its last dot."""
    last = re.sub(r"[(\[].*", "", key).rstrip(".").rpartition(".")[2]
    return re.sub(r"[^a-z0-9+]", "", last.lower())


_TABLE = {_plain(key): meaning for meaning, keys in SPELLINGS.items() for key in keys}


@lru_cache(4096)
def _meaning(key: str) -> Meaning | None:
    plain = _plain(key)
    if plain in _TABLE:
        return _TABLE[plain]
    without = _PREFIX.sub("", plain)
    if without in _TABLE and without not in _LETTERS:
        return _TABLE[without]
    end = _END.search(plain)
    return _TABLE[end[0]] if end else None


def _unpaired(stated: Mapping[Meaning, Mapping[str, Any]]) -> dict[str, int]:
    """Unpaired electrons by key, of all keys that tell their number without doubt."""
    counts: dict[str, float] = {}
    for key, value in stated[Meaning.MULTIPLICITY].items():
        counts[key] = _number(value, "unclear_spin", key) - 1
    for key, value in stated[Meaning.QUANTUM_NUMBER].items():
        counts[key] = 2 * _number(value, "unclear_spin", key)
    for key, value in stated[Meaning.UNPAIRED].items():
        if (pair := as_array(value)).size == 2:
            up, down = pair.reshape(-1)
            counts[key] = abs(_number(up, "unclear_spin", key) - _number(down, "unclear_spin", key))
        elif _plain(key) not in _ALL_ELECTRONS:
            counts[key] = abs(_number(value, "unclear_spin", key))
    for (first, up), (second, down) in zip(stated[Meaning.ALPHA].items(), stated[Meaning.BETA].items(), strict=False):
        difference = _number(up, "unclear_spin", first) - _number(down, "unclear_spin", second)
        counts[f"{first} - {second}"] = abs(difference)
    for key, count in counts.items():
        if abs(count - round(count)) > _WHOLE_TOLERANCE or round(count) < 0:
            raise _RefusedError("unclear_spin", f"{key} gives {count:g} unpaired electrons")
    return {key: round(count) for key, count in counts.items()}


def _unpaired_by_moments(stated: Mapping[str, Any], atoms: int, known: bool) -> dict[str, int]:
    """Unpaired electrons by key, from magnetic moments; `known` says whether another key tells them, too."""
    found: dict[str, int] = {}
    for key, value in stated.items():
        array = _per_atom(value, atoms, vectors=True)
        if array is None:
            total = abs(_number(value, "unclear_spin", key))
            if total == 0:
                # also of every calculation without spin
                continue
        elif _says_nothing(array):
            continue
        else:
            total = _sum(array, "unclear_spin", key)
            if total <= SUM_TOLERANCE and np.abs(array).max() >= SUM_TOLERANCE:
                if not known:
                    raise _RefusedError("open_shell", f"the moments of {key} cancel each other")
                continue
        if abs(total - round(total)) <= SUM_TOLERANCE:
            found[key] = round(total)
        elif not known:
            raise _RefusedError("unclear_spin", f"the moment by {key} is {total:.3g}, which is not whole")
    return found


def _is_no_multiplicity(key: str, numbers: NDArray[Any], stated: Mapping[str, Any]) -> bool:
    """Whether a frame's value of `spin` cannot be a multiplicity; electrons are counted for neutral frames alone."""
    number = _as_number(stated[key])
    if number is None or not _is_half_whole(number):
        return False
    if number != round(number) or number <= 0:
        return True
    charges = {name: value for name, value in stated.items() if _meaning(name) is Meaning.CHARGE and value is not None}
    try:
        ElectronicStates()._check_charge(charges, len(numbers))
    except _RefusedError:
        return False
    return (int(numbers.sum()) - (round(number) - 1)) % 2 == 1


def _fits_letter(meaning: Meaning, value: Any, atoms: int) -> bool:
    if meaning is not Meaning.CHARGE:
        return _is_half_whole(value)
    number = _as_number(value)
    return _per_atom(value, atoms) is not None or (number is not None and number == round(number))


def _is_half_whole(value: Any) -> bool:
    number = _as_number(value)
    return number is not None and abs(2 * number - round(2 * number)) <= _WHOLE_TOLERANCE


def _number(value: Any, reason: str, key: str) -> float:
    number = _as_number(value)
    if number is None:
        raise _RefusedError(reason, f"{key} is {_short(value)}, which is not a number")
    return number


def _as_number(value: Any) -> float | None:
    """A value as a number, an array of one value and digits as text included; None if it is no charge or spin."""
    array = as_array(value)
    if array.size != 1 or array.dtype.kind not in "iufUS":
        return None
    try:
        number = float(array.reshape(-1)[0])
    except ValueError:
        return None
    return number if abs(number) < _LARGEST else None


def _sum(array: NDArray[np.float64], reason: str, key: str) -> float:
    """The sum over atoms; of moments, which may be vectors, its length."""
    if not (np.abs(array) < _LARGEST).all():
        raise _RefusedError(reason, f"{key} has values that are not numbers, or far too large")
    total = array.sum(axis=0)
    return float(total) if reason == "unclear_charge" else float(np.linalg.norm(total))


def _per_atom(value: Any, atoms: int, vectors: bool = False) -> NDArray[np.float64] | None:
    """A value as an array [A] or, of `vectors`, [A, 3]; None if it has none for every atom, or is a single number."""
    array = as_array(value)
    if array.dtype.kind not in "iuf" or array.ndim == 0 or array.size == 1 or array.shape[0] != atoms:
        return None
    if array.shape[1:] in ((), (1,)):
        return array.reshape(-1).astype(np.float64)
    return array.astype(np.float64) if vectors and array.shape[1:] == (3,) else None


def _says_nothing(array: NDArray[np.float64]) -> bool:
    return bool((array == 0).all() or np.isnan(array).all())


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
