"""An error is one line, whatever the names and values in it hold."""

import pickle

import pytest

from chemscale.errors import ConfigError, DataError, InputError, TrainingError, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("results/my runs/ü'x", "results/my runs/ü'x"),
        ("分子", "分子"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2Jaudit: ok\x07", r"\x1b[2Jaudit: ok\x07"),
        ("\x9b31m\x7f\0", r"\x9b31m\x7f\x00"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("a\u2028b\u2029c\u0085", r"a\u2028b\u2029c\x85"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert shown(text) == expected
    assert shown(shown(text)) == expected
    shown(text).encode()


def test_a_long_text_keeps_its_ends():
    assert shown("a" * 50 + "b" * 50, limit=20) == "a" * 12 + "..." + "b" * 5
    assert len(shown("\n" * 10**6)) == 2000
    assert shown(shown("\n" * 10**6)) == shown("\n" * 10**6)


@pytest.mark.parametrize("kind", [InputError, ConfigError, DataError])
def test_an_error_is_one_line(kind):
    error = kind("read a\nb", "\x1b[2J" * 10**5, "look\rthere")
    assert str(error).isprintable()
    assert len(str(error)) < 3000
    assert str(error).startswith(r"read a\nb: found \x1b[2J\x1b[2J")
    assert str(error).endswith(r"; look\rthere")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(TrainingError("a\nb")) == r"a\nb"
    assert str(pickle.loads(pickle.dumps(TrainingError("a\nb")))) == r"a\nb"
