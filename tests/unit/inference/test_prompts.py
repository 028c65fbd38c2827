"""Prompts, seeds and temperatures of `generate`: each is taken, or refused in one line."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chemscale import cli
from chemscale.data.tokenizer import SPECIAL, Tokenizer
from chemscale.errors import InputError
from chemscale.inference import generate, hugging_face, language
from chemscale.models import registry


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = Tokenizer([*SPECIAL, "[C]", "[N]", "[O]"])
    knobs = {"layers": 2, "width": 8, "heads": 2}
    model = registry.build("chemgpt", knobs, seed=1, vocab_size=len(tokenizer), embedding_std=0.8)
    place = tmp_path_factory.mktemp("prompts") / "model"
    hugging_face.save(model, tokenizer, place, "card")
    return place


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "CCO"], "not SELFIES"),
        (["--prompt", "[C][Xe]\n[\x1b[31m]"], "not SELFIES"),
        (["--prompt", "[\x1b[31m\n]" * 3000], "outside the vocabulary"),
        (["--prompt", "[C]" * 3000], "3,000 symbols; give at most 2,045"),
        (["--prompt", "[C]" * 128], "no room"),
        (["--prompt", "[CLS][C]"], r"\[CLS\] outside the vocabulary"),
        (["--seed", "-1"], "a seed of -1"),
        (["--seed", str(2**80)], "a seed of 1208925819614629174706176"),
        (["--temperature", "nan"], "a temperature of nan"),
        (["--temperature", "1e-300"], "a temperature of 1e-300"),
        (["--max-symbols", "99999"], "allow 1 to 2046"),
    ],
)
def test_odd_prompts_and_numbers_end_in_one_line(folder, monkeypatch, capsys, options, message):
    monkeypatch.setattr("sys.argv", ["chemscale", "generate", str(folder), "--num", "1", *options])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.isprintable()
    assert len(line) < 1000
    assert re.search(message, line)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(prompt=st.text(st.sampled_from("[]=#.CNOX1\n\x1b\u202e é"), max_size=12))
def test_any_prompt_is_continued_or_refused(folder, prompt):
    asked = language.load(folder)
    drawn = generate.draw(asked.model, asked.tokenizer, 0, prompt=prompt, max_symbols=12)
    # at most 11 symbols of the vocabulary leave room for one more
    if re.fullmatch(r"(\[[CNO]\]){0,11}", prompt):
        assert next(drawn).selfies.startswith(prompt)
    else:
        with pytest.raises(InputError) as raised:
            next(drawn)
        assert str(raised.value).isprintable()
