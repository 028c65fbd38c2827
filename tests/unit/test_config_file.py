"""A config from a stranger: each odd value, structure or file ends in one line, soon, with the line or the key."""

import copy
import itertools
import math
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import run_study
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chemscale.config import MAX_CELLS
from chemscale.config_file import load_config
from chemscale.errors import ConfigError
from chemscale.planning.plan import plan_study
from chemscale.study import load_study

DEFAULT = (Path(__file__).parents[2] / "config.yaml").read_text()
LEVELS = "abcdefghi"
# nine lists of nine of the list before it: 9^9 texts
LISTS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 9)}]\n" for inner, name in itertools.pairwise(LEVELS)
)
MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}\n" for level in range(1, 12)
)


def edited(old: str, new: str) -> str:
    """The default config with a piece of text replaced once."""
    assert old in DEFAULT
    return DEFAULT.replace(old, new, 1)


def refusal(path: Path) -> str:
    """The one line by which a config is refused; it is within the memory that a config may take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as error:
        load_study(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # KiB
    message = str(error.value)
    assert message.isprintable()
    assert str(path) in message
    assert len(message) < 1000
    return message


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LISTS + edited("study: quickstart", "study: *i"), "line 6, column 4: more than 200,000 values"),
        (LISTS + edited("seeds: [1, 2]", "seeds: *i"), "line 6, column 4: more than 200,000 values"),
        (LISTS + edited("waived: []", "waived: *i"), "line 6, column 4: more than 200,000 values"),
        (MERGES + DEFAULT, "line 6, column 14: more than 200,000 values"),
        ("a: &a " + "x" * 900_000 + f"\nb: [{', '.join(['*a'] * 9)}]\n", "line 2, column 4: more than 200,000 values"),
        ("x0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}]\n" for i in range(1, 99)), "line 50, .*50 deep"),
        (edited("study: quickstart", "study: &a [*a]"), "line 8, column 12: the alias \\*a within what it names"),
        ("m: &m {<<: *m}\n", "line 1, column 12: the alias \\*m within what it names"),
        (edited("study: quickstart", "study: *a"), "line 8, column 8: found undefined alias 'a'"),
        (edited("study: quickstart", "study: " + "[" * 1000), "line 8, column 57: mappings or lists .* 50 deep"),
        (edited("study: quickstart", "study: " + '{"a": ' * 1000), "line 8, .* 50 deep"),
        (
            edited("study: quickstart", "study:\n" + "".join(" " * i + "a:\n" for i in range(1, 900))),
            "line 57, .* deep",
        ),
        (edited("level: 0.9", "level: 2024-02-31"), "line 160, column 10: '2024-02-31', which .* a date: quote"),
        (edited("study: quickstart", "study: 2024-01-01"), "line 8, column 8: '2024-01-01', which .* a date: quote"),
        (edited("study: quickstart", "study: 2024-01-01 10:00:00Z"), "'2024-01-01 10:00:00Z', which .* a date"),
        (edited("study: quickstart", "study: !!int abc"), "line 8, column 8: the tag 'tag:yaml.org,2002:int'"),
        (edited("study: quickstart", "study: !!python/name:os.system"), "line 8, column 8: the tag .*python/name"),
        (edited("study: quickstart", "study: !!binary aGVsbG8="), "line 8, column 8: the tag .*binary"),
        (edited("study: quickstart", "study: !!timestamp x"), "line 8, column 8: the tag .*timestamp"),
        (edited("study: quickstart", "study: !!set {a, b}"), "line 8, column 8: the tag .*set"),
        (edited("study: quickstart", "study: !own x"), "line 8, column 8: the tag '!own'"),
        (edited("threads: 1", "threads: " + "1" * 5000), "line 11, column 10: a number of 5,000 digits"),
        (edited("temperature: 500", "temperature: 1e999"), "data.conformers.temperature: found inf; .*finite"),
        (edited("temperature: 500", "temperature: .nan"), "data.conformers.temperature: found nan; .*finite"),
        (edited("temperature: 500", "temperature: -.inf"), "data.conformers.temperature: found -inf; .*finite"),
        (edited("study: quickstart", "study: yes"), "line 8, column 8: 'yes', which .* a truth value"),
        (edited("[C, H, N, O]", "[C, H, No]"), "line 28, column 22: 'No', which .* a truth value"),
        (edited("threads: 1", "threads: 1:30"), "line 11, column 10: '1:30', which .* to base 60"),
        (edited("threads: 1", "threads: 010"), "line 11, column 10: '010', which .* to another base"),
        (edited("threads: 1", "threads: 0x10"), "line 11, column 10: '0x10', which .* to another base"),
        (edited("threads: 1", 'threads: "1"'), "threads: found '1'; Input should be a valid integer"),
        (edited("threads: 1", "threads: true"), "threads: found True; Input should be a valid integer"),
        (edited("warmup: 0.1", "warmup: false"), "families.chemgpt.training.warmup: found False; .*valid number"),
        (edited("seeds: [1, 2]", "seeds: [1, true]"), "families.chemgpt.grid.2.seeds.1: found True"),
        (DEFAULT + "study: other\n", "line 166, column 1: the key 'study' stands twice"),
        (edited("w8: {layers: 2", "8: {layers: 2"), "line 67, column 7: the key '8' is no name"),
        (edited("w8: {layers: 2", "no: {layers: 2"), "line 67, column 7: the key 'no' is no name"),
        (edited("w8: {layers: 2", "~: {layers: 2"), "line 67, column 7: the key '~' is no name"),
        (edited("w8: {layers: 2", "[a, b]: {layers: 2"), "line 67, column 7: a key that is a list"),
        (
            edited("w8: {layers: 2", '"w\\e8": {layers: 2'),
            r"families.chemgpt.sizes.w\\x1b8.*a name begins with a letter",
        ),
        (edited("w8: {layers: 2", '"w\\n8": {layers: 2'), r"families.chemgpt.sizes.w\\n8.*a name begins with a letter"),
        (edited("w8: {layers: 2", "w" * 65 + ": {layers: 2"), "at most 64 characters"),
        (DEFAULT + "---\n" + DEFAULT, "line 166, column 1: .*another document"),
        ("", "found nothing; write a mapping"),
        ("# a comment\n", "found nothing; write a mapping"),
        ("- a\n", "found a list; write a mapping"),
        ("a", "found a str; write a mapping"),
        (edited("  conformers:", "\tconformers:"), r"line 26, column 1: found character '\\t' that cannot start"),
        (DEFAULT + "a: b\0\n", r"line 166: the character '\\x00'"),
        (DEFAULT + "a: \x1b[2J\n", r"line 166: the character '\\x1b'"),
        (DEFAULT.encode("utf-16"), "no UTF-8 text"),
        (DEFAULT.encode("utf-16-le"), r"line 1: the character '\\x00'"),
        (edited("quickstart", "café").encode("latin-1"), "no UTF-8 text"),
        ("a: b # " + "x" * 2**20, "more than 1,048,576 bytes"),
        (edited("study: quickstart", "study: a: b"), "line 8, column 9: mapping values are not allowed here"),
        ("__use_yte__: true\n" + DEFAULT, "__use_yte__: .* by which Snakemake runs code"),
    ],
)
def test_a_hostile_text_is_refused_with_its_line_or_key(tmp_path, text, found):
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(found, refusal(path))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("num_samples: [60, 125", f"num_samples: [{10**18}", "families.chemgpt.grid.0.num_samples.0"),
        ("w8: {layers: 2", f"w8: {{layers: {10**9}", "families.chemgpt.sizes.w8.layers"),
        ("layers: 2, width: 8,", f"layers: 2, width: {10**9},", "families.chemgpt.sizes.w8.width"),
        ("steps: 800", f"steps: {10**30}", "families.chemgpt.protocol.steps"),
        ("num_molecules: 400", f"num_molecules: {10**12}", "data.conformers.num_molecules"),
        ("frames_per_molecule: 8", f"frames_per_molecule: {10**13}", "data.conformers.frames_per_molecule"),
        ("threads: 1", f"threads: {10**6}", "threads"),
        ("stereo: keep", f"chunks: {10**6}", "data.molecules.chunks"),
        ("resamples: 400", f"resamples: {10**9}", "fits.resamples"),
        ("validations: 8", f"validations: {10**9}", "families.chemgpt.training.validations"),
        ("nvt_ps: 1.0", "nvt_ps: 1.0e+300", "evaluate.schnet.dynamics.nvt_ps"),
        ("nvt_ps: 1.0", "nvt_ps: 1.0, nvt_timestep_fs: 1.0e-300", "evaluate.schnet.dynamics.nvt_timestep_fs"),
    ],
)
def test_a_number_beyond_all_measure_is_refused_before_anything_is_made_of_it(tmp_path, old, new, found):
    path = tmp_path / "study.yaml"
    path.write_text(edited(old, new))
    assert f"{path}: {found}: found " in refusal(path)


def grid_of(num_seeds: int, samples: str = "60, 2000") -> str:
    seeds = ", ".join(map(str, range(3, 3 + num_seeds)))
    return edited(
        "{sizes: [w8], num_samples: [60, 2000], seeds: [1, 2]}",
        f"{{sizes: [w8], num_samples: [{samples}], seeds: [{seeds}]}}",
    )


@pytest.mark.timeout(30)
def test_a_grid_is_counted_before_its_cells_are_made(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(grid_of(30_000))
    assert "found 60,092 cells, 60,030 of them in families.chemgpt.grid; a study has at most 20,000" in refusal(path)
    path.write_text(grid_of(1, ", ".join(map(str, range(100, 300)))))
    assert "found 204 num_samples in families.chemgpt.grid; a grid has at most 128" in refusal(path)
    # the repeated aliases of a block make a large grid of a few lines
    many = (
        "    grid:\n      - &block {sizes: [w8], num_samples: [60], seeds: ["
        + ", ".join(map(str, range(10_000)))
        + "]}\n"
    )
    path.write_text(edited("    grid:\n", many + "      - *block\n" * 10))
    assert "found 110,096 cells" in refusal(path)


def test_the_largest_grid_is_planned(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(grid_of((MAX_CELLS - 92) // 2))
    planned = plan_study(load_study(path))
    assert len(planned["cells"]) == MAX_CELLS


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "lost").symlink_to("nowhere")
    for name, found in [
        ("fifo", "a FIFO"),
        ("device", "a device"),
        ("lost", "a link to nothing"),
        ("none", "no such file"),
        (".", "a folder"),
    ]:
        assert f"found {found}" in refusal(tmp_path / name)


def test_a_data_file_that_is_none_is_refused_by_its_key(tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    path = tmp_path / "study.yaml"
    for name, found in [
        ("fifo.csv", "a FIFO"),
        ("zero.csv", "a device"),
        ("none.csv", "no such file"),
        (".", "a folder"),
    ]:
        path.write_text(edited("source: chemicals", f"source: file\n    column: smiles\n    path: {tmp_path / name}"))
        assert f"data.molecules.path: found '{tmp_path / name}': {found}" in refusal(path)
        path.write_text(edited("{smiles: CCO}", f"{{structure: {tmp_path / name}}}"))
        assert f"data.trajectories.molecules.ethanol.structure: found '{tmp_path / name}': {found}" in refusal(path)


@pytest.mark.parametrize("key", ["results_dir", "data_dir"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a\nb", "no control characters"),
        ("a\x1b[2J", "no control characters"),
        ("a\0b", "no control characters"),
        ("a\u202eb", "no control characters"),
        ("a\ud800", "no control characters"),
        ("a/{cell}", "no braces"),
        ("}", "no braces"),
        ("-rf", "does not begin with '-'"),
        ("./-rf", "does not begin with '-'"),
        ("", "not empty"),
        (" a", "does not begin or end with a blank"),
        ("a\u3000", "does not begin or end with a blank"),
        ("x" * 256, "at most 1,000 bytes, and 255"),
        ("a/" * 501, "at most 1,000 bytes"),
    ],
)
def test_a_path_that_snakemake_or_a_terminal_cannot_take_is_refused(tmp_path, key, value, found):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(DEFAULT), key: value}))
    message = refusal(path)
    assert f"{path}: {key}: found " in message
    assert found in message


@pytest.mark.parametrize(
    "value", ["my runs/ü'x", "分子", "../x", "/tmp/x", "$(x)", "`x`", 'a"b', "a\u00a0b", "a;b", "x" * 255]
)
def test_other_paths_are_taken(tmp_path, value):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(DEFAULT), "results_dir": value}))
    assert load_config(path).results_dir == value


def test_a_config_may_begin_with_a_byte_order_mark_and_hold_quoted_and_exponential_values(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("\ufeff" + DEFAULT)
    assert load_config(path) == load_config(Path(__file__).parents[2] / "config.yaml")
    path.write_text(edited("at_reference: 0.008", "at_reference: 8e-3").replace("[C, H, N, O]", '[C, H, "No"]'))
    read = load_config(path)
    assert read.families.chemgpt.training.learning_rate.at_reference == 0.008
    assert read.data["conformers"].elements == ["C", "H", "No"]


WORDS = r"""
~ null true yes Off NO .nan -.inf 1e999 1e-999 -1 0 010 0x1F 0o17 0b1 1_0 1:30 -0 -0.0 .5 5. 1e5 1.5e+3 2024-01-01
2024-02-31 2001-12-14t21:59:43.10-05:00 = << !!int ! !!float . .. / - -- --- ... ? : | > @ ` *a &a *potential &potential
% # , [ ] { } {} [] [[]] {{}} [a, '' "" ' " \ \0 "\0" "\ud800" 'a''b' ü 分 😀 w8 [w8,w8] {sizes:[w8]} [1,2,3]
!!python/name:os.system cells/painn/w32/n64/seed1
"""


@pytest.mark.timeout(10)
def test_make_run_gives_snakemake_no_config_that_was_not_accepted(tmp_path, capsys):
    # Snakemake would run this code, wait for the FIFO, and unfold the merges
    (tmp_path / "code.yaml").write_text(f"__use_yte__: true\nstudy: ?open('{tmp_path}/ran', 'w')\n")
    (tmp_path / "merges.yaml").write_text(MERGES + DEFAULT)
    os.mkfifo(tmp_path / "fifo.yaml")
    for name in ("code", "merges", "fifo"):
        assert run_study.main(["--configfile", str(tmp_path / f"{name}.yaml")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


SCALARS = [
    *WORDS.split(),
    *(str(10**power) for power in (3, 6, 9, 12, 18, 30, 99, 400)),
    *("\u2028", "\ufeff", "\x85", "\u202e", "a\tb", "\t", "a: b", "- a", "|\n    a", "\n", "a #b", "x" * 300, "{a: }"),
]
RAW = yaml.safe_load(DEFAULT)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys and items of a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [place for key, child in items for place in [(*path, key), *places(child, (*path, key))]]


@st.composite
def edited_text(draw: st.DrawFn) -> str:
    """The default config with one to three edits of its text."""
    text = DEFAULT
    for _ in range(draw(st.integers(1, 3))):
        lines = text.splitlines()
        line = draw(st.sampled_from([number for number, words in enumerate(lines) if ":" in words.partition("#")[0]]))
        words = lines[line].partition(" #")[0]
        scalar = draw(st.sampled_from(SCALARS) | st.text(max_size=6))
        head, colon, tail = words.partition(":")
        lines[line : line + 1] = draw(
            st.sampled_from(
                [
                    [f"{head}{colon} {scalar}"],
                    [f"{scalar}{colon}{tail}"],
                    [words, words],
                    [],
                    [f"{words} {scalar}"],
                    [f"{words[: len(words) // 2]}{scalar}{words[len(words) // 2 :]}"],
                    [" " + words],
                ]
            )
        )
        text = "\n".join(lines) + "\n"
    return text


@st.composite
def edited_values(draw: st.DrawFn) -> str:
    """The default config with one to three of its values replaced, removed, or put under another key."""
    raw = copy.deepcopy(RAW)
    for _ in range(draw(st.integers(1, 3))):
        *keys, last = draw(st.sampled_from(places(raw)))
        target = raw
        for key in keys:
            target = target[key]
        kind = draw(st.sampled_from(["replace", "replace", "copy", "remove", "rename"]))
        if kind == "replace":
            target[last] = draw(VALUES)
        elif kind == "copy":
            value = raw
            for key in draw(st.sampled_from(places(raw))):
                value = value[key]
            target[last] = copy.deepcopy(value)
        elif kind == "remove" or isinstance(target, list):
            del target[last]
        else:
            target[draw(st.text(max_size=6))] = target.pop(last)
        if not places(raw):
            break
    return yaml.dump(raw, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=draw(st.booleans()))


@settings(derandomize=True, deadline=10_000, max_examples=200, suppress_health_check=list(HealthCheck))
@given(text=edited_text() | edited_values())
def test_an_edited_config_is_a_study_or_one_line_that_says_where_it_is_wrong(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "edited.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        study = load_study(path)
    except ConfigError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 7000
        assert message.startswith((f"{path}: ", f"read the config {path}: found no", f"read {path}: found no UTF-8"))
        return
    # what is taken is taken whole: it can be planned, and its numbers are finite
    assert len(plan_study(study)["cells"]) == len(study.cells) + len(study.controls)
    assert all(math.isfinite(cell.training["learning_rate"]) for cell in study.cells)
