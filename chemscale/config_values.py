"""The kinds of values that a config's keys take: names, paths, counts and shares, each within bounds."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            "a name begins with a letter, goes on with letters of ASCII, digits, '_', '.' and '-', and has at most 64 "
            "characters"
        )
    return value


def _path(value: str) -> str:
    """The path, where Snakemake can have it as an input or an output and a terminal as a word."""
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") for character in value):
        raise ValueError("a path has no control characters, line breaks or other characters that cannot be printed")
    if "{" in value or "}" in value:
        raise ValueError("a path has no braces: Snakemake takes what is between them for a pattern")
    if value != value.strip():
        raise ValueError("a path does not begin or end with a blank, which Snakemake warns of at every file")
    parts = Path(value).parts
    if not parts or parts[0].startswith("-"):
        raise ValueError("a path is not empty and does not begin with '-', as an option of a command does")
    if len(value.encode()) > 1000 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError("a path has at most 1,000 bytes, and 255 between two slashes")
    return value


# strict: neither true nor "2" is a number
Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Positive = Annotated[int, Field(ge=1, le=10**12, strict=True)]
Processes = Annotated[int, Field(ge=1, le=4096, strict=True)]
PositiveFloat = Annotated[float, Field(ge=1e-12, le=1e12, strict=True)]
NotNegative = Annotated[float, Field(ge=0, le=1e12, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
