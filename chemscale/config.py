"""The typed config of a study: every key, its type and its meaning, checked before any job starts.

`chemscale.config_file.load_config` is the only way in. A wrong key, type or value ends as one `ConfigError` that names
the file, the key's path, the value found and what is allowed. Mappings whose keys are the user's own names hold typed
sections.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from chemscale.catalogue import CATALOGUE
from chemscale.config_values import (
    FilePath,
    Name,
    NotNegative,
    Positive,
    PositiveFloat,
    Processes,
    Seed,
    Share,
)
from chemscale.families import FAMILIES, LANGUAGE, POTENTIALS, Choice, Family
from chemscale.units import ENERGY_UNITS, LENGTH_UNITS

# what a study may ask for, so that it is planned within seconds and its records are read within a gigabyte
MAX_CELLS = 20_000  # of the grid and the controls together
MAX_SUBSETS = 128  # numbers of samples of a grid


class Section(BaseModel):
    """A mapping of the config: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


# --- data -------------------------------------------------------------------------------------------------------------


class DataSection(Section):
    """What all data sets share: sizes of the fixed splits, shards, and the share of rejects that stops the study."""

    validation: Share
    test: Share
    rows_per_shard: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 50_000
    max_reject_share: Share = 0.05
    # how the work is spread, which never changes the output and is no part of the data's key
    workers: Processes = 2  # processes of a job
    chunks: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 1  # jobs that a cluster may run on different machines

    @model_validator(mode="after")
    def _splits_leave_training(self) -> DataSection:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test must stay below 1, found {self.validation + self.test}")
        return self


def _sources(domain: str) -> Any:
    """The type of a key that names a published source of a domain, or a file of one's own."""
    return Literal[*(name for name, entry in CATALOGUE.items() if entry.domain == domain), "file"]


class Sourced(DataSection):
    """A data set that comes from a published source, or from a file of one's own."""

    source: str
    # of a file of one's own; or where a published file lies on this machine: a file, or a folder that holds it
    path: FilePath | None = None

    @model_validator(mode="after")
    def _file_has_path(self) -> Sourced:
        if self.source == "file" and self.path is None:
            raise ValueError("source 'file' takes a path")
        return self


def _stated(section: Section) -> set[str]:
    """The keys that have another value than by default: a resolved config holds all keys, and is valid, too."""
    return {name for name, field in type(section).model_fields.items() if getattr(section, name) != field.default}


class Molecules(Sourced):
    """Molecules for a language model: a source of SMILES, and the policy for stereo, fragments and vocabulary."""

    kind: Literal["molecules"]
    source: _sources(LANGUAGE)  # type: ignore[valid-type]
    column: str | None = None  # source: file; the column that holds SMILES, by name
    stereo: Literal["keep", "strip"] = "keep"  # isotopes go with it
    fragments: Literal["keep", "largest"] = "keep"
    max_symbols: Annotated[int, Field(ge=1, le=2046, strict=True)] = 128  # a model has 2,048 positions
    min_symbol_count: Positive = 1
    # a pinned vocabulary: a tokenizer.json of chemscale or of Hugging Face, or a vocab.txt, and its digest
    vocabulary: FilePath | None = None
    vocabulary_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    unknown_symbols: Literal["map", "reject"] = "map"  # to [UNK], or the molecule; both are counted
    split_by: Literal["constitution", "scaffold"] = "constitution"
    scaffolds: bool = False  # compute them also where they don't decide the split

    @model_validator(mode="after")
    def _tables_have_a_column(self) -> Molecules:
        table = self.path is not None and re.search(r"\.(csv|tsv|parquet)(\.gz)?$", self.path.lower()) is not None
        if self.source == "file" and table and self.column is None:
            raise ValueError("a table takes the name of the column that holds SMILES: column")
        if self.column is not None and self.source != "file":
            raise ValueError("column is for a file of one's own; that of a published source is known")
        return self

    @model_validator(mode="after")
    def _vocabulary_is_pinned(self) -> Molecules:
        if (self.vocabulary is None) != (self.vocabulary_digest is None):
            raise ValueError("vocabulary and vocabulary_digest are set together")
        if self.vocabulary is not None and "min_symbol_count" in _stated(self):
            raise ValueError("min_symbol_count makes a vocabulary; with a pinned one there is none to make")
        if self.unknown_symbols == "reject" and self.vocabulary is None:
            raise ValueError("unknown_symbols 'reject' takes a pinned vocabulary: one from training knows its symbols")
        return self


class Structures(Sourced):
    """Frames with energies and forces from published files or one's own; units are converted once, here."""

    kind: Literal["structures"]
    source: _sources(POTENTIALS)  # type: ignore[valid-type]
    molecules: Annotated[list[str], Field(min_length=1)] | None = None  # by name, of the source; None takes all
    # of a file of one's own
    format: Literal["extxyz", "ase_db", "md17", "rmd17", "ani1x"] | None = None
    energy_unit: Literal[*ENERGY_UNITS] | None = None  # type: ignore[valid-type]
    length_unit: Literal[*LENGTH_UNITS] | None = None  # type: ignore[valid-type]
    energy_key: str | None = None
    forces_key: str | None = None
    molecule_key: str | None = None
    largest_force: PositiveFloat = 300.0  # eV/angstrom on one atom; frames with larger ones are rejected
    # molecules and formulas go to a split by hash; trajectories are cut into blocks of time with a gap. By default MD17
    # and rMD17 are split by time, ANI-1x by formula, a file of one's own by molecule.
    split_by: Literal["molecule", "formula", "time"]
    blocks: Annotated[int, Field(ge=3, le=1_000_000, strict=True)] = 10
    gap_frames: Annotated[int, Field(ge=0, le=10**12, strict=True)] = 200  # of the trajectory: 100 fs of MD17

    @model_validator(mode="before")
    @classmethod
    def _split_as_fits_the_source(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "split_by" in values:
            return values
        source = str(values.get("source"))
        timed = "md17" in source or (source == "file" and values.get("format") in ("md17", "rmd17"))
        by_formula = source == "ani1x" or (source == "file" and values.get("format") == "ani1x")
        return {**values, "split_by": "time" if timed else "formula" if by_formula else "molecule"}

    @model_validator(mode="after")
    def _own_files_state_their_format(self) -> Structures:
        if self.source == "file" and None in (self.format, self.energy_unit, self.length_unit):
            raise ValueError("source 'file' takes format, energy_unit and length_unit")
        own = ("format", "energy_unit", "length_unit", "energy_key", "forces_key", "molecule_key")
        if self.source != "file" and (given := [key for key in own if getattr(self, key) is not None]):
            raise ValueError(f"{' and '.join(given)}: only for source 'file', others are known")
        return self


class Molecule(Section):
    """A molecule by its SMILES, or by a structure file that ASE reads."""

    smiles: str | None = None
    structure: FilePath | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Molecule:
        if (self.smiles is None) == (self.structure is None):
            raise ValueError("give smiles or structure")
        return self


class Conformers(DataSection):
    """Conformers of many small molecules by normal-mode sampling, with GFN2-xTB energies and forces."""

    kind: Literal["conformers"]
    source: Literal["xtb"] = "xtb"
    molecules: Annotated[dict[Name, Molecule], Field(min_length=1)] | None = None  # these; or else the lowest CIDs
    molecules_from: Literal["chemicals"] = "chemicals"
    elements: list[Annotated[str, Field(pattern="^[A-Z][a-z]?$")]] = ["C", "H", "N", "O"]
    min_heavy_atoms: Positive = 2
    max_heavy_atoms: Positive = 5
    num_molecules: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    exclude: list[str] = []  # SMILES of molecules, in whatever form of stereo, that are left out
    frames_per_molecule: Positive
    temperature: PositiveFloat = 500.0  # kelvin
    seed: Seed = 0

    @model_validator(mode="after")
    def _names_or_counts_its_molecules(self) -> Conformers:
        if (self.molecules is None) == (self.num_molecules is None):
            raise ValueError("give molecules, or num_molecules to take those of the lowest CIDs")
        return self


class Trajectories(DataSection):
    """Langevin trajectories of single molecules with GFN2-xTB, split by contiguous blocks of time with a gap."""

    kind: Literal["trajectories"]
    source: Literal["xtb"] = "xtb"
    molecules: Annotated[dict[Name, Molecule], Field(min_length=1)]
    temperature: PositiveFloat = 500.0  # kelvin
    timestep: PositiveFloat = 0.5  # fs
    friction: PositiveFloat = 0.01  # 1/fs
    equilibration_steps: Positive = 1000
    save_every: Positive = 10  # steps
    frames_per_molecule: Positive
    blocks: Annotated[int, Field(ge=3, le=1_000_000, strict=True)] = 10
    gap_frames: Annotated[int, Field(ge=0, le=10**12, strict=True)] = 20
    seed: Seed = 0


DATA_KINDS = ("molecules", "conformers", "trajectories", "structures")
AnyData = Annotated[Molecules | Conformers | Trajectories | Structures, Field(discriminator="kind")]


class Downloads(Section):
    """Where published files come from, beside their own addresses."""

    offline: bool = False  # open no connection: every file has to lie on this machine
    mirror: str | None = None  # a folder, or the beginning of an address, that holds the files by their original names


# --- training ---------------------------------------------------------------------------------------------------------


class Protocol(Section):
    """What is held while the amount of data changes. It is printed with every exponent.

    equal_steps: every subset is trained for the same `steps`, so that D means distinct data and nothing else;
    one_pass: each sample is seen once; fixed_epochs: `epochs` passes (the paper's);
    to_convergence: until `patience` validations in a row bring no lower loss, at most `steps`.
    """

    kind: Literal["one_pass", "fixed_epochs", "equal_steps", "to_convergence"]
    steps: Positive | None = None
    epochs: Positive | None = None
    patience: Positive | None = None

    @model_validator(mode="after")
    def _needs(self) -> Protocol:
        needs = {
            "one_pass": set(),
            "fixed_epochs": {"epochs"},
            "equal_steps": {"steps"},
            "to_convergence": {"steps", "patience"},
        }[self.kind]
        given = {name for name in ("steps", "epochs", "patience") if getattr(self, name) is not None}
        if needs != given:
            raise ValueError(f"{self.kind} takes {sorted(needs) or 'no further key'}, found {sorted(given) or 'none'}")
        return self


class LearningRate(Section):
    """The peak rate of a size: `at_reference` * (capacity / `reference`) ** `power`, capacity being the width."""

    at_reference: PositiveFloat
    reference: PositiveFloat
    power: Annotated[float, Field(strict=True)]

    def at(self, capacity: float) -> float:
        """The peak learning rate of a size whose capacity knob has this value."""
        try:
            return float(self.at_reference * (capacity / self.reference) ** self.power)
        except OverflowError:
            return math.inf


class Training(Section):
    """Optimiser and schedule: AdamW, linear warm-up, a schedule, clipped gradients, averaged weights."""

    learning_rate: LearningRate
    # after the warm-up: constant (the paper's), cosine, or the peak until a decay at the end; in one pass with
    # warmup_steps, a run of the last one goes on from that on fewer samples
    schedule: Literal["constant", "cosine", "stable_decay"] = "cosine"
    warmup: Share = 0.1  # share of the steps
    warmup_steps: Positive | None = None  # in its place
    # share of the peak that cosine and decay end at
    final_rate: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.05
    decay: Share = 0.2  # share of the steps in which stable_decay falls
    weight_decay: NotNegative = 0.0  # on matrices only
    beta1: Share = 0.9
    beta2: Share = 0.99
    gradient_clip: PositiveFloat = 1.0
    average: Share = 0.0  # decay per step of the averaged weights that are evaluated; 0 evaluates the last weights
    # at log-spaced shares of the steps, of stable_decay only while the rate falls; the best one is kept
    validations: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 8
    # share of the rate at which a run that diverges goes on, once, from its last validation; unset, it fails
    retry_rate: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None

    @model_validator(mode="after")
    def _schedule_takes_its_keys(self) -> Training:
        unused = {"constant": {"final_rate", "decay"}, "cosine": {"decay"}, "stable_decay": set()}[self.schedule]
        if given := sorted(unused & _stated(self)):
            raise ValueError(f"schedule {self.schedule!r} takes no {' and no '.join(given)}")
        if self.warmup_steps is not None and "warmup" in _stated(self):
            raise ValueError("give warmup, a share of the steps, or warmup_steps")
        return self


class LanguageTraining(Training):
    """Training of a language model; a batch holds about `batch_tokens` tokens of whole molecules."""

    batch_tokens: Positive
    embedding_std: PositiveFloat = 0.02
    # of the passes; weights, moments and averages are kept in fp32, the loss is computed in it
    precision: Literal["fp32", "bf16"] = "fp32"


class PotentialTraining(Training):
    """Training of a potential; a batch holds `batch_frames` frames."""

    batch_frames: Positive
    energy_weight: NotNegative = 1.0
    force_weight: NotNegative = 1.0


class LanguageEngine(Section):
    """How a step's work is spread; it decides last bits alone.

    With `memory_gb`, what is left unset of `micro_tokens`, `zero`, `offload` and `recompute` is chosen for each cell by
    the memory model; without it, a rank takes its whole share at once, by the plain engine.
    """

    ranks: Processes = 1  # processes that train a cell together, each with its share of a batch
    memory_gb: PositiveFloat | None = None  # that a rank may take, 10^9 bytes
    micro_tokens: Positive | None = None  # computed tokens that a rank takes at a time; unset, its whole share
    # DeepSpeed's stage: ranks share moments, then gradients, then weights; 0, nothing
    zero: Literal[0, 1, 2, 3] | None = None
    offload: bool | None = None  # of moments and fp32 weights into the host's memory
    recompute: bool | None = None  # blocks in the backward pass, in place of keeping what their gradients take
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    checkpoint_seconds: PositiveFloat = 60.0  # between two checkpoints of a running cell

    @model_validator(mode="after")
    def _ranks_share(self) -> LanguageEngine:
        if self.offload and not self.zero and (self.zero == 0 or self.memory_gb is None):
            raise ValueError("offload takes a stage of zero: 2 or 3")
        return self


class PotentialEngine(Section):
    """How a step's work is spread; it decides last bits alone."""

    ranks: Processes = 1  # processes that train a cell together, each with its share of a batch
    # a step as machine code, built once for each size; auto: where the study's steps of a size pay for it
    compile: Literal["auto", "always", "never"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    checkpoint_seconds: PositiveFloat = 60.0  # between two checkpoints of a running cell


class Block(Section):
    """A block of the grid: every combination of its sizes, subsets and seeds."""

    sizes: Annotated[list[str], Field(min_length=1)]
    num_samples: Annotated[list[Positive], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]


class FamilySection(Section):
    """A family of the study: its data, protocol, training, capacity ladder and grid."""

    data: Name
    evaluations: Annotated[list[Name], Field(max_length=20)] = []  # further data sets whose test split is evaluated
    protocol: Protocol
    grid: Annotated[list[Block], Field(min_length=1)]


class Control(Section):
    """A run outside the grid that tests what an axis means: the grid's cells under another protocol."""

    family: Name
    protocol: Protocol
    grid: Annotated[list[Block], Field(min_length=1)]


class Series(Section):
    """One size of a family over its subsets."""

    family: Name
    size: str


class Contrast(Section):
    """A comparison that is named before any run: what another build of a model changes along the data.

    The second series is compared with the first one, at the subsets that the grid has of both. Primary contrasts are
    what the study is made for; secondary ones are corrected for their number, and primary ones for theirs.
    """

    role: Literal["primary", "secondary"]
    between: Annotated[list[Series], Field(min_length=2, max_length=2)]
    # what the two sizes have in common, to 10 %: non-embedding parameters, or FLOPs of a step; it is checked
    matched: Literal["parameters", "flops", "none"] = "none"


def _size_model(family: Family) -> type[Section]:
    knobs: dict[str, Any] = {}
    for name, knob in family.knobs.items():
        if isinstance(knob, Choice):
            knobs[name] = (Literal[knob.values], Field(knob.values[0], description=knob.meaning))
        else:
            limits = Field(ge=knob.minimum, le=knob.maximum, strict=True, description=knob.meaning)
            knobs[name] = (knob.kind, limits)
    return create_model(f"{family.name}_size", __base__=Section, **knobs)


def _family_model(family: Family) -> type[FamilySection]:
    training = LanguageTraining if family.domain == LANGUAGE else PotentialTraining
    sizes: Any = Annotated[dict[Name, _size_model(family)], Field(min_length=1, max_length=1000)]  # type: ignore[misc]
    engine = LanguageEngine() if family.domain == LANGUAGE else PotentialEngine()
    parts: dict[str, Any] = {"training": (training, ...), "sizes": (sizes, ...), "engine": (type(engine), engine)}
    return create_model(f"{family.name}_section", __base__=FamilySection, **parts)


Families: type[Section] = create_model(
    "Families",
    __base__=Section,
    **{name: (_family_model(family) | None, None) for name, family in FAMILIES.items()},  # type: ignore[call-overload]
)


class Generation(Section):
    """Molecules drawn from a language cell, whose distribution is compared with that of validation molecules."""

    num: Annotated[int, Field(ge=10, le=10_000_000, strict=True)]  # fewer have no distribution
    seed: Seed = 0
    temperature: PositiveFloat = 1.0


class Probe(Section):
    """A ridge regression on a language cell's frozen vectors: HOMO-LUMO gap and dipole moment by GFN2-xTB."""

    # of the test split; fewer cannot be split by scaffold
    num_molecules: Annotated[int, Field(ge=20, le=1_000_000, strict=True)]
    max_heavy_atoms: Annotated[int, Field(ge=2, le=50, strict=True)] = 12
    seed: Seed = 0  # of the choice of molecules, their conformers and their split


class Dynamics(Section):
    """Molecular dynamics on a potential: how long molecules hold, how well energy is kept, where atoms are.

    `nvt_ps` is the cap of each replica at constant temperature, `nve_ps` the length at constant energy, if any.
    """

    data: Name  # a data set of trajectories: where replicas start, and what they are compared with
    molecules: Annotated[list[Name], Field(min_length=1)] | None = None  # of that data set; all by default
    replicas: Annotated[int, Field(ge=2, le=1000, strict=True)] = 8
    # kelvin; that of the data set, which need not be named where it states one
    temperature: PositiveFloat | None = None
    nvt_ps: PositiveFloat
    nvt_timestep_fs: Annotated[float, Field(ge=1e-3, le=5, strict=True)] = 0.5
    friction_per_ps: PositiveFloat = 10.0
    nve_ps: PositiveFloat | None = None
    nve_timestep_fs: Annotated[float, Field(ge=1e-3, le=5, strict=True)] = 0.25
    seed: Seed = 0

    @model_validator(mode="after")
    def _whole_numbers_of_steps(self) -> Dynamics:
        for span, timestep in ((self.nvt_ps, self.nvt_timestep_fs), (self.nve_ps, self.nve_timestep_fs)):
            steps = (span or 0.0) * 1000 / timestep
            if abs(steps - round(steps)) > 1e-6:
                raise ValueError(f"{span:g} ps are {steps:.6g} steps of {timestep:g} fs: choose a whole number")
        return self


class PotentialEvaluation(Section):
    """What is asked of finished potentials beyond their errors, and of which cells of the grid."""

    grid: Annotated[list[Block], Field(min_length=1)]
    dynamics: Dynamics


class LanguageEvaluation(Section):
    """What is asked of finished language cells beyond their loss, and of which cells of the grid."""

    grid: Annotated[list[Block], Field(min_length=1)]
    generation: Generation | None = None
    probe: Probe | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> LanguageEvaluation:
        if self.generation is None and self.probe is None:
            raise ValueError("give generation, probe, or both")
        return self


Evaluations: type[Section] = create_model(
    "Evaluations",
    __base__=Section,
    **{  # type: ignore[call-overload]
        name: ((LanguageEvaluation if family.domain == LANGUAGE else PotentialEvaluation) | None, None)
        for name, family in FAMILIES.items()
    },
)


class Fits(Section):
    """How laws are fitted: level of the intervals, number of bootstrap resamples and their seed."""

    level: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.9
    # below 200 the p-value of a form could not get small enough to refuse it
    resamples: Annotated[int, Field(ge=200, le=100_000, strict=True)] = 400
    seed: Seed = 0

    @model_validator(mode="after")
    def _resamples_resolve_the_level(self) -> Fits:
        # the ends of the interval lie between the resamples, not beyond the outermost ones
        if (1 - self.level) / 2 * (self.resamples + 1) < 1:
            needed = math.ceil(2 / (1 - self.level))
            raise ValueError(f"level {self.level} takes {needed} resamples or more, found {self.resamples}")
        return self


class StudyConfig(Section):
    """A study: everything that one file describes."""

    study: Name
    results_dir: FilePath = "results"
    data_dir: FilePath = "data"
    threads: Processes = 1  # per cell; bits depend on it
    downloads: Downloads = Downloads()
    data: Annotated[dict[Name, AnyData], Field(min_length=1, max_length=100)]
    families: Families
    controls: dict[Name, Control] = {}
    contrasts: Annotated[dict[Name, Contrast], Field(max_length=200)] = {}
    evaluate: Evaluations = Evaluations()
    fits: Fits = Fits()
    waived: list[str] = []  # cells, by path, that the study may go without

    @model_validator(mode="after")
    def _the_grid_is_small_enough(self) -> StudyConfig:
        # counted, and not made: a few lines may name billions
        families: dict[str, FamilySection] = {name: section for name, section in self.families if section is not None}
        grids = {f"families.{name}.grid": section.grid for name, section in families.items()}
        grids |= {f"controls.{name}.grid": control.grid for name, control in self.controls.items()}
        cells = {
            where: sum(len(block.sizes) * len(block.num_samples) * len(block.seeds) for block in grid)
            for where, grid in grids.items()
        }
        if sum(cells.values()) > MAX_CELLS:
            largest = max(cells, key=cells.__getitem__)
            raise ValueError(
                f"{sum(cells.values()):,} cells, {cells[largest]:,} of them in {largest}: "
                f"a study has at most {MAX_CELLS:,} in its grids and controls together"
            )
        for where, grid in grids.items():
            subsets = len({num_samples for block in grid for num_samples in block.num_samples})
            if subsets > MAX_SUBSETS:
                raise ValueError(f"{subsets:,} num_samples in {where}: a grid has at most {MAX_SUBSETS}")
        return self
