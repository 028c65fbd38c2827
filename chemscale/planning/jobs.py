"""The jobs of a study: what each one reads, writes and depends on, as one graph that rules and `status` share.

Snakemake's rules take their inputs and settings from here, so that `chemscale status`, `make run` and Snakemake
speak of the same jobs. A path is a string, as Snakemake has it: relative to the folder that the commands run in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from chemscale.evaluations import EVALUATION, SPEED
from chemscale.families import POTENTIALS, reach
from chemscale.grid import Cell
from chemscale.io import digest
from chemscale.planning.code import family_digest, stage_digest
from chemscale.study import Study, data_settings, wants_scaffolds

CELL_FILES = ("config.json", "metrics.json", "metrics.jsonl", "test_clusters.parquet", "provenance.json")


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    Attributes:
        rule: the name of its Snakemake rule.
        wildcards: what tells it from the rule's other jobs.
        inputs: the files that it reads and that other jobs write.
        outputs: the files (or folders) that it writes.
        settings: what decides its outputs beside its inputs: values of the config, and the digest of its code.
        record: the file that says what its outputs were made from; None where the outputs say so themselves.
        own_files: files of the user that it reads.
        data: the folder of prepared data that it writes into; None for a job of the study's results.
        temporary: whether its outputs are deleted once they have been read.
    """

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any]
    record: str | None
    own_files: tuple[str, ...] = ()
    data: str | None = None
    temporary: bool = False

    @cached_property
    def name(self) -> str:
        """The job in words, such as `assemble chemicals-0123456789ab` or `train cells/painn/w8/n32/seed0`."""
        return " ".join([self.rule, *self.wildcards.values()])


@dataclass
class Jobs:
    """All jobs of a study; `jobs.of(rule, ...)` and `jobs.writer(path)` name one.

    Those of waived cells are among them, but nothing depends on them: they are not evaluated, and no table has them.
    """

    study: Study
    jobs: dict[tuple[str, frozenset[tuple[str, str]]], Job] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs.values())

    def of(self, rule: str, wildcards: Mapping[str, str] | None = None) -> Job:
        """A rule's job with these wildcards; `KeyError` where the study has none."""
        return self.jobs[rule, frozenset((wildcards or {}).items())]

    @cached_property
    def _writers(self) -> dict[str, Job]:
        return {path: job for job in self for path in job.outputs}

    def writer(self, path: str) -> Job | None:
        """The job that writes a file; None where it is no job's output."""
        return self._writers.get(path)

    def lasting_inputs(self, job: Job) -> list[str]:
        """The inputs of a job that stay after it was done."""
        return [path for path in job.inputs if (writer := self.writer(path)) is None or not writer.temporary]

    def params(self, job: Job) -> dict[str, Any]:
        """What the job's script is handed, see `chemscale.stage.stage`."""
        return {
            "settings": dict(job.settings),
            "record": job.record,
            "inputs": self.lasting_inputs(job),
            "own_files": list(job.own_files),
        }

    @property
    def last(self) -> Job:
        """The job that depends on all others but those of waived cells: the audit of everything."""
        return self.of("audit")

    @property
    def training(self) -> list[Job]:
        """The jobs that train the cells that are not waived."""
        return [job for job in self if job.rule == "train" and job.wildcards["cell"] not in self.study.waived]

    def needed(self, targets: Iterable[Job]) -> list[Job]:
        """The jobs and all that they depend on, each one after those that it depends on."""
        order: dict[int, Job] = {}
        waiting = [(job, False) for job in targets]
        while waiting:
            job, expanded = waiting.pop()
            if id(job) in order:
                continue
            if expanded:
                order[id(job)] = job
                continue
            waiting.append((job, True))
            waiting += [(writer, False) for path in job.inputs if (writer := self.writer(path)) is not None]
        return list(order.values())

    def add(self, rule: str, wildcards: Mapping[str, str] | None = None, **values: Any) -> Job:
        """Add a job; one that two parts of the study need is added once."""
        job = Job(rule, wildcards or {}, **values)
        return self.jobs.setdefault((rule, frozenset(job.wildcards.items())), job)


def jobs_of(study: Study) -> Jobs:
    """All jobs of a study, from its sources to the audit of everything."""
    jobs = Jobs(study)
    data = {name: _DataSet(jobs, name) for name in study.config.data}
    cells = {cell.path: cell for cell in [*study.cells, *study.controls]}
    draws: dict[str, list[list[int]]] = {name: [] for name in data}
    for cell in cells.values():
        if [cell.seed, cell.num_samples] not in draws[cell.data["name"]]:
            draws[cell.data["name"]].append([cell.seed, cell.num_samples])
    trained = {path: _add_cell(jobs, data, cell) for path, cell in cells.items()}
    evaluated = [_add_evaluation(jobs, data, cells[path]) for path in study.evaluated if path not in study.waived]
    passports = [dataset.passport(draws[name]) for name, dataset in data.items()]
    _add_report(jobs, [job for path, job in trained.items() if path not in study.waived], evaluated, passports)
    return jobs


class _DataSet:
    """The jobs of a data section; those that nothing asks for are not added."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self.jobs, self.name = jobs, name
        self.section = jobs.study.data_section(name)
        self.settings = data_settings(self.section)
        self.key = jobs.study.data_key(name)
        self.folder = str(jobs.study.data_folder(name))

    def _add(self, rule: str, wildcards: Mapping[str, str], note: str, **values: Any) -> Job:
        record = f"{self.folder}/jobs/{note}.json"
        return self.jobs.add(rule, {"key": self.key, **wildcards}, record=record, data=self.folder, **values)

    def own_files(self) -> tuple[str, ...]:
        """The user's files that the section is made of, and no published ones: those are known by their content."""
        files = [self.section["path"]] if self.section.get("source") == "file" else []
        files += [self.section["vocabulary"]] if self.section.get("vocabulary") else []
        if self.section["kind"] in ("conformers", "trajectories") and self.section["molecules"]:
            molecules = self.section["molecules"].values()
            files += [molecule["structure"] for molecule in molecules if molecule["structure"]]
        return tuple(files)

    @property
    def manifest(self) -> str:
        return f"{self.folder}/manifest.json"

    def assemble(self) -> Job:
        """The job that writes the manifest, and those that it depends on."""
        code, chunks = stage_digest(self.section["kind"]), self.section["chunks"]
        markers = tuple(f"{self.folder}/chunks/{chunk}of{chunks}.json" for chunk in range(chunks))
        read = self.section["kind"] in ("molecules", "structures")
        source = f"{self.folder}/source.json"
        if read:
            self._add(
                "source",
                {},
                "source",
                inputs=(),
                outputs=(source,),
                # where a published file lies decides nothing: its content is checked
                settings={"section": self.settings, "code": stage_digest("source")},
                own_files=self.own_files(),
            )
        for chunk, marker in enumerate(markers):
            self._add(
                "read" if read else "simulate",
                {"chunk": str(chunk), "chunks": str(chunks)},
                f"chunk-{chunk}of{chunks}",
                inputs=(source,) if read else (),
                outputs=(marker,),
                settings={"section": self.settings, "code": code},
                # the source's record holds the digest of its file
                own_files=() if read else self.own_files(),
                temporary=True,
            )
        return self._add(
            "assemble",
            {},
            "assemble",
            inputs=markers,
            outputs=(self.manifest,),
            # the chunks' records go when the manifest stands, so that it has to see a change of what makes rows itself
            settings={
                "section": self.settings | {"max_reject_share": self.section["max_reject_share"]},
                "code": stage_digest("assemble"),
                "code of rows": code,
            },
            own_files=self.own_files(),
        )

    def _after_manifest(self, rule: str, wildcards: Mapping[str, str], note: str, file: str, **values: Any) -> str:
        """Add a job that reads the manifest; `values` are its settings, and its outputs where there are several."""
        outputs = values.pop("outputs", (f"{self.folder}/{file}",))
        settings = {"code": stage_digest(rule), **values}
        self._add(rule, wildcards, note, inputs=(self.assemble().outputs[0],), outputs=outputs, settings=settings)
        return f"{self.folder}/{file}"

    def arrays(self) -> str:
        return self._after_manifest("arrays", {}, "arrays", "arrays/arrays.json")

    def neighbours(self, cutoff: float) -> str:
        output = f"{self.folder}/neighbours/{cutoff:g}/arrays.json"
        self._add(
            "neighbours",
            {"cutoff": f"{cutoff:g}"},
            f"neighbours-{cutoff:g}",
            inputs=(self.arrays(),),
            outputs=(output,),
            settings={"code": stage_digest("arrays")},
        )
        return output

    def subset(self, seed: int, num_samples: int) -> str:
        wildcards = {"seed": str(seed), "num_samples": str(num_samples)}
        file = f"subsets/seed{seed}/n{num_samples}.parquet"
        return self._after_manifest("subset", wildcards, f"subset-seed{seed}-n{num_samples}", file)

    def properties(self, settings: Mapping[str, Any]) -> str:
        probe = digest(settings)[:12]
        folder = f"{self.folder}/properties/{probe}"
        return self._after_manifest(
            "properties",
            {"probe": probe},
            f"properties-{probe}",
            f"properties/{probe}/manifest.json",
            outputs=(f"{folder}/manifest.json", f"{folder}/properties.parquet"),
            probe=settings,
        )

    def reference(self, seed: int, num: int) -> str:
        wildcards = {"seed": str(seed), "num": str(num)}
        file = f"reference/seed{seed}/n{num}.parquet"
        return self._after_manifest("reference", wildcards, f"reference-seed{seed}-n{num}", file)

    def passport(self, draws: list[list[int]]) -> Job:
        """What the study keeps of the data set; its settings name those of the data, which may lie elsewhere."""
        inputs = [self.assemble().outputs[0]]
        if wants_scaffolds(self.section):
            inputs.append(self._after_manifest("scaffolds", {}, "scaffolds", "scaffolds/scaffolds.json"))
        molecules = self.section["kind"] == "molecules"
        files = ["manifest.json", "rows.parquet", "passport.json"] + (
            ["tokenizer.json", "tokenizer"] if molecules else []
        )
        root = self.jobs.study.root
        return self.jobs.add(
            "passport_of_molecules" if molecules else "passport",
            {"name": self.name},
            inputs=tuple(inputs),
            outputs=tuple(f"{root}/data/{self.name}/{file}" for file in files),
            settings={
                "draws": draws,
                "scaffolds": wants_scaffolds(self.section),
                "code": stage_digest("passport"),
                "data": dict(self.assemble().settings) | {"code of arrays": stage_digest("arrays")},
            },
            record=f"{root}/logs/jobs/passport-{self.name}.json",
            own_files=self.own_files(),
        )


def _cell_data(data: Mapping[str, _DataSet], cell: Cell) -> list[str]:
    """The prepared data that a cell reads: arrays of training and evaluation sets, neighbour lists, and its subset."""
    files = []
    for name in (cell.data["name"], *cell.data["evaluations"]):
        files += [data[name].manifest, data[name].arrays()]
        if cell.domain == POTENTIALS:
            files.append(data[name].neighbours(reach(cell.family, cell.knobs)))
    files.append(data[cell.data["name"]].subset(cell.seed, cell.num_samples))
    return sorted(set(files))


def _add_cell(jobs: Jobs, data: Mapping[str, _DataSet], cell: Cell) -> Job:
    folder = cell.folder(jobs.study.root)
    return jobs.add(
        "train",
        {"cell": cell.path},
        inputs=tuple(_cell_data(data, cell)),
        outputs=tuple(f"{folder}/{name}" for name in CELL_FILES),
        settings={"cell": cell.to_dict(), "code": family_digest(cell.family)},
        record=None,
    )


def _add_evaluation(jobs: Jobs, data: Mapping[str, _DataSet], cell: Cell) -> Job:
    """The evaluation of a cell, with the prepared data that it reads beside the cell's: properties, molecules."""
    study = jobs.study
    own, settings = data[cell.data["name"]], study.evaluated[cell.path]
    inputs = _cell_data(data, cell)
    if settings["probe"]:
        inputs.append(own.properties(settings["probe"]))
    if settings["generation"]:
        inputs.append(own.reference(settings["generation"]["seed"], settings["generation"]["num"]))
    if settings["dynamics"]:
        inputs.append(data[settings["dynamics"]["data"]].manifest)
    folder = cell.folder(study.root)
    return jobs.add(
        "evaluate",
        {"cell": cell.path},
        inputs=(*inputs, f"{folder}/metrics.json"),
        outputs=(f"{folder}/{EVALUATION}", f"{folder}/{SPEED}"),
        settings={
            "settings": settings,
            "fits": study.config.fits.model_dump(mode="json"),
            "code": family_digest(cell.family) + stage_digest("evaluate"),
        },
        record=f"{study.root}/logs/jobs/evaluate/{cell.path}.json",
    )


def _add_report(jobs: Jobs, trained: list[Job], evaluated: list[Job], passports: list[Job]) -> None:
    """The jobs from the resolved study to the audit of everything."""
    root = str(jobs.study.root)

    def add(rule: str, inputs: Iterable[str], *outputs: str, stage: str | None = None) -> tuple[str, ...]:
        written = tuple(f"{root}/{file}" for file in outputs)
        jobs.add(
            rule,
            inputs=tuple(inputs),
            outputs=written,
            settings={"code": stage_digest(stage or rule)},
            record=f"{root}/logs/jobs/{rule}.json",
        )
        return written

    config = f"{root}/config.json"
    jobs.add("study", inputs=(), outputs=(config,), settings={"study": jobs.study.resolved()}, record=None)
    names = ("metrics.json", "provenance.json", "test_clusters.parquet")
    records = [f"{root}/{job.wildcards['cell']}/{name}" for job in trained for name in names]
    evaluations = [job.outputs[0] for job in evaluated]
    kept = [path for job in passports for path in job.outputs]
    plan = add("plan", [config], "tables/plan.parquet")
    tables = ("cells", "controls", "test_clusters", "evaluation")
    gathered = add("gather", [config, *records, *evaluations], *(f"tables/{name}.parquet" for name in tables))
    tables = ("fits", "control_effects", "slopes", "contrasts")
    fits = add("fits", [config, *gathered], *(f"tables/{name}.parquet" for name in tables))
    data = add("data_table", [config, *kept], "tables/data.parquet", "tables/passport.parquet", stage="tables")
    figures = add("figures", [config, *gathered, *fits, *kept], "figures")
    read = [config, *plan, *gathered, *fits, *data, *kept]
    audited = add("audit_records", read, "audit/records.json", stage="audit")
    page = add("report", [*read, *audited, *figures], "report/index.html")
    sums = add("seal", [*read, *audited, *figures, *page], "audit/SHA256SUMS", stage="audit")
    add("audit", sums, "audit/audit.json", stage="audit")
