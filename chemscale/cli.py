"""The `chemscale` command. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from chemscale.errors import ChemscaleError, InputError, shown

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural scaling laws of chemical models: plan, follow, fit and audit a study.",
)

_Config = Annotated[Path, typer.Option("--config", help="The study's YAML file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def plan(config: _Config = Path("config.yaml"), as_json: _Json = False) -> None:
    """What every cell of a study will take, before anything runs."""
    from chemscale.planning.due import judge
    from chemscale.planning.jobs import jobs_of
    from chemscale.planning.plan import plan_study, render
    from chemscale.planning.retrain import retraining
    from chemscale.study import load_study

    study = load_study(config)
    planned = plan_study(study)
    jobs = jobs_of(study)
    again = retraining(jobs, judge(jobs))
    planned["retraining"] = str(again) if again.cells else None
    _show(planned, as_json, lambda plan: "\n".join(filter(None, [render(plan), plan["retraining"]])))


@app.command()
def status(config: _Config = Path("config.yaml"), as_json: _Json = False) -> None:
    """Which cells and stages are done, running, failed, stale (and what changed) or waiting; what a run would do.

    The exit code is 1 where one has failed.
    """
    from chemscale.planning.status import study_status
    from chemscale.study import load_study

    found = study_status(load_study(config))
    _show(found, as_json, _status_text)
    if found["rerun"]:
        raise typer.Exit(1)


def _status_text(status: dict[str, Any]) -> str:
    def counted(states: dict[str, int]) -> str:
        return ", ".join(f"{count} {state}" for state, count in states.items())

    lines = [f"{status['study']}: {counted(status['counts'])}"]
    if any(status["evaluations"].values()):
        lines.append(f"evaluations: {counted(status['evaluations'])}")
    for entry in status["cells"]:
        if entry["state"] not in ("done", "waiting") or (entry["state"] == "waiting" and entry["reason"]):
            waived = " (waived)" if entry["waived"] else ""
            lines.append(
                f"{entry['state']:8} {entry['cell']}{waived}"
                + (f": {shown(entry['reason'])}" if entry["reason"] else "")
            )
    for entry in status["stages"]:
        if not entry["follows"] and (entry["state"] != "waiting" or entry["reason"]):
            lines.append(f"{entry['state']:8} {entry['job']}" + (f": {entry['reason']}" if entry["reason"] else ""))
    jobs = ", ".join(f"{count} {rule}" for rule, count in status["next"]["jobs"].items())
    lines.append(f"the next run: {jobs}" if jobs else "the next run: nothing to do")
    if status["retraining"]:
        lines.append(status["retraining"])
    if status["locked"]:
        lines.append("locked: Snakemake works in this folder, or was killed here (then: snakemake --unlock)")
    if status["rerun"]:
        lines.append(f"run the failed ones again: {status['rerun']}")
    return "\n".join(lines)


@app.command()
def train(
    cell: Annotated[str, typer.Argument(help="A cell by its path, such as cells/chemgpt/w88/n2000/seed0.")],
    config: _Config = Path("config.yaml"),
) -> None:
    """Train one cell here, its data being prepared; under torchrun or srun, as one of its ranks."""
    from chemscale.planning.code import family_digest
    from chemscale.study import load_study
    from chemscale.training.launch import main as train_cell

    study = load_study(config)
    path = cell.strip("/").removeprefix(f"{study.root}/").removesuffix("/metrics.json")
    found = [known for known in study.cells + study.controls if known.path == path]
    if not found:
        raise InputError(f"train {cell}", f"no such cell in {config}", f"name one, such as {study.cells[0].path}")
    train_cell(
        found[0].to_dict(),
        root=str(study.root),
        data_dir=str(study.data_dir),
        code=family_digest(found[0].family),
        log_file=str(study.root / "logs" / f"{path}.log"),
    )


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet with columns among N, D, C, loss, seed, run.")],
    form: Annotated[str, typer.Option(help="power, offset, joint_power or joint.")] = "power",
    x: Annotated[
        str | None, typer.Option("--x", help="The axis of a single-axis form: N, D or C, where several vary.")
    ] = None,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    as_json: _Json = False,
) -> None:
    """A scaling law fitted to anybody's table; a fit that the data cannot support is refused, with its reasons."""
    from chemscale.scaling.table import fit_table

    _show(fit_table(table, form=form, x=x, level=level), as_json, _fit_text)


def _fit_text(record: dict[str, Any]) -> str:
    lines = [f"{record['form']}, {record['num_runs']} runs: {record['verdict']}"]
    for name, value in record["parameters"].items():
        low, high = record["intervals"].get(name) or (None, None)
        interval = "" if low is None or high is None else f"  [{low:.4g}, {high:.4g}] at {record['level']:g}"
        lines.append(f"  {name:6} {'-' if value is None else format(value, '.4g')}{interval}")
    lines += [f"  reason: {shown(reason)}" for reason in record["reasons"]]
    lines += [f"  note: {shown(note)}" for note in record["notes"]]
    lines += [f"  left out: {count} rows, {shown(reason)}" for reason, count in record["left_out"].items()]
    return "\n".join(lines)


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="A finished study, such as results/quickstart.")],
    deep: Annotated[bool, typer.Option("--deep", help="Evaluate checkpoints again (not there yet).")] = False,
    as_json: _Json = False,
) -> None:
    """Whether every number of a study follows from its raw records; needs the folder alone."""
    from chemscale.audit.run import audit_command
    from chemscale.reporting.figures import draw
    from chemscale.reporting.page import render

    code, result = audit_command(folder, render, draw, deep=deep)
    _show(result, as_json, _audit_text)
    raise typer.Exit(code)


def _audit_text(result: dict[str, Any]) -> str:
    lines = []
    for check in result["checks"]:
        lines.append(f"{check['verdict']:11} {check['name']}: {check['proves']}")
        evidence = check["evidence"]
        if check["verdict"] != "ok":
            lines += [f"            {line}" for line in (evidence if isinstance(evidence, list) else [str(evidence)])]
    return "\n".join([*lines, f"audit: {result['verdict']}"])


@app.command()
def export(
    cell: Annotated[Path, typer.Argument(help="A finished cell's folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[
        str,
        typer.Option("--to", help="hf: a language model for transformers; ase: a potential for chemscale.calculator."),
    ] = "hf",
    as_json: _Json = False,
) -> None:
    """A folder that transformers or chemscale.calculator loads: the model, and a card that says where it comes from."""
    from chemscale.inference.export import export as export_cell

    _show(export_cell(cell, out, to), as_json, lambda done: shown(f"{done['cell']} written to {done['folder']}"))


@app.command()
def generate(
    cell: Annotated[Path, typer.Argument(help="A finished cell's folder, or a Hugging Face folder.")],
    num: Annotated[int, typer.Option(min=1, help="How many molecules.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    prompt: Annotated[str, typer.Option(help="A SELFIES beginning to continue.")] = "",
    max_symbols: Annotated[int, typer.Option(help="The most symbols of a molecule.")] = 128,
    temperature: Annotated[float, typer.Option(help="Of the draw; 1 is the model's own.")] = 1.0,
) -> None:
    """Molecules from a language cell as SMILES, one a line, each with its log-probability in nats after a tab."""
    from chemscale.inference.generate import molecules
    from chemscale.inference.language import load

    asked = load(cell)
    options: dict[str, Any] = {"prompt": prompt, "max_symbols": max_symbols, "temperature": temperature}
    found, left_out = molecules(asked.model, asked.tokenizer, num, seed, **options)
    for smiles, log_probability in found:
        print(f"{smiles}\t{log_probability:.6f}")
    for reason, count in left_out.items():
        if count:
            sys.stderr.write(f"drawn besides and left out: {count} {reason}\n")


@app.command()
def embed(
    cell: Annotated[Path, typer.Argument(help="A finished cell's folder, or a Hugging Face folder.")],
    file: Annotated[Path, typer.Argument(help="Molecules: CSV, TSV, SMI, TXT or Parquet.")],
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    column: Annotated[str | None, typer.Option(help="The column that holds the SMILES, for a table.")] = None,
    as_json: _Json = False,
) -> None:
    """A vector per molecule from a language cell: the mean over its tokens of the last layer's features."""
    from chemscale.inference.embed import embed as embed_file

    def told(done: dict[str, Any]) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in done["rejected"].items())
        return f"{done['embedded']:,} of {done['rows']:,} molecules embedded" + (f" ({reasons})" if reasons else "")

    _show(embed_file(cell, file, out, column), as_json, told)


def _show(value: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], str]) -> None:
    print(json.dumps(value, allow_nan=False) if as_json else render(value))


def main() -> None:
    """The console script: errors of ours end in one message and their exit code, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal whose encoding lacks a letter of a name shows its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ChemscaleError as error:
        sys.stderr.write(f"chemscale: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
