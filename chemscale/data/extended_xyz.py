"""Extended XYZ, one frame at a time, each parsed by ASE; what ASE changes on the way is read from the text itself."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemscale.data.blocks import LARGEST_MOLECULE, UNKNOWN, Frame, Rejected
from chemscale.data.electronic_states import statements
from chemscale.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_LONGEST_LINE = 1 << 20  # characters
_LARGEST_FRAME = 1 << 25  # characters
_MOST_COLUMNS = 1000
_MOST_ATOMS = 100 * LARGEST_MOLECULE  # of a frame that is rejected; of more, the rest of the file is not read
_QUOTES = {"'": "'", '"': '"', "{": "}", "[": "]"}


def frames(path: Path) -> Iterator[Frame | Rejected]:
    """The frames of a file; those that ASE cannot make sense of are rejected one by one.

    Raises:
        DataError: the file is not text, has a line of more than 1 MiB or a frame of a million atoms, ends within a
            frame, or another line stands where a frame must begin: what comes after it cannot be assigned.
    """
    from ase.io.extxyz import read_xyz

    for number, line, text in _texts(path):
        where = f"{path}, frame {number} (line {line})"
        if text is None:
            yield Rejected(UNKNOWN, "too_many_atoms", where, note=f"more than {LARGEST_MOLECULE:,}, or too much text")
            continue
        try:
            texts = _checked(text)
            atoms: Atoms = next(read_xyz(io.StringIO(text), index=0))
        except KeyError as error:
            yield Rejected(UNKNOWN, "unknown_element", f"{where}: {error}")
        except (
            # all that ASE raises for texts that are not as it expects them
            *(ArithmeticError, AssertionError, AttributeError, IndexError, OSError),
            *(RecursionError, RuntimeError, TypeError, ValueError),
        ) as error:
            yield Rejected(UNKNOWN, "unreadable", f"{where}: {error}")
        else:
            yield _frame(atoms, texts, where)


def _frame(atoms: Atoms, texts: dict[str, str], where: str) -> Frame:
    results = {} if atoms.calc is None else atoms.calc.results
    of_frame = {**atoms.info, **results}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    remark = ""
    if "Properties" not in texts:
        remark = "without Properties=, only symbols and positions are read"
    return Frame(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        bool(atoms.pbc.any()),
        {**atoms.arrays, **of_frame},
        texts,
        # a key may name a value and a column
        statements({**of_frame, **{key if key not in of_frame else f"column.{key}": arrays[key] for key in arrays}}),
        where,
        remark,
    )


def _checked(text: str) -> dict[str, str]:
    """The values of the comment line of a frame, as text; `ValueError` where ASE would pick one, or run for long."""
    texts: dict[str, str] = {}
    for key, value in comment_values(text.split("\n", 2)[1]):
        if texts.setdefault(key, value) != value:
            raise ValueError(f"{key} stands twice, with different values")
    columns = texts.get("Properties", "").split(":")[2::3]
    if sum(map(int, columns)) > _MOST_COLUMNS or any(int(count) > _MOST_COLUMNS for count in columns):
        raise ValueError(f"Properties names more than {_MOST_COLUMNS:,} columns")
    return texts


def comment_values(line: str) -> list[tuple[str, str]]:
    """Keys and values of a comment line, as text and in order; a key without a value has an empty one.

    Quotes, brackets and backslashes are taken as ASE takes them; numbers, truth values and JSON stay as they are
    written, where ASE makes 1 of 001 and True of T.
    """
    entries: list[list[list[str]]] = [[[]]]
    closing, escaped = "", False
    for character in line.strip():
        part = entries[-1][-1]
        if escaped:
            part.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif closing:
            if character == closing:
                closing = ""
            else:
                part.append(character)
        elif character in _QUOTES:
            closing = _QUOTES[character]
        elif character.isspace():
            if part:
                entries.append([[]])
        elif character == "=":
            if entries[-1] == [[]]:
                # blanks before the sign
                entries.pop()
            if not entries:
                raise ValueError("a value without a key")
            entries[-1].append([])
        else:
            part.append(character)
    joined = [["".join(part) for part in entry] for entry in entries]
    return [(key, "=".join(parts)) for key, *parts in joined]


def _texts(path: Path) -> Iterator[tuple[int, int, str | None]]:
    """Number, first line and text of every frame of an XYZ file; None for the text of a frame that is too large.

    ASE's own reader lists all frames of the file before it gives the first one, and takes an empty line for the end.
    """
    number, line = 0, 0

    def next_line() -> str:
        nonlocal line
        found = stream.readline(_LONGEST_LINE + 1)
        if len(found) > _LONGEST_LINE:
            raise DataError(
                f"line {line + 1} of {path}", f"more than {_LONGEST_LINE:,} characters", "is it extended XYZ?"
            )
        line += bool(found)
        return found

    try:
        with open(path, encoding="utf-8-sig") as stream:
            while header := next_line():
                if not header.strip():
                    continue
                if not re.fullmatch(r"\s*[0-9]{1,9}\s*", header):
                    before = f"check that frame {number - 1} has the atoms that it says" if number else "is it XYZ?"
                    raise DataError(
                        f"the number of atoms of frame {number} in line {line} of {path}",
                        repr(header.strip()[:60]),
                        before,
                    )
                atoms, first = int(header), line
                if atoms > _MOST_ATOMS:
                    raise DataError(
                        f"at most {LARGEST_MOLECULE:,} atoms in frame {number} (line {line}) of {path}",
                        f"{atoms:,}",
                        "leave the frame out",
                    )
                content, size, lines = [header], 0, 0
                while lines < atoms + 1 and (text := next_line()):
                    lines, size = lines + 1, size + len(text)
                    if atoms <= LARGEST_MOLECULE and size <= _LARGEST_FRAME:
                        content.append(text)
                if lines < atoms + 1:
                    raise DataError(
                        f"{atoms} atoms in frame {number} (line {first}) of {path}",
                        f"the end of the file after {max(0, lines - 1)}",
                        "get the whole file, or cut off the frame",
                    )
                yield number, first, "".join(content) if lines == len(content) - 1 else None
                number += 1
    except UnicodeDecodeError:
        raise DataError(
            f"frame {number} of {path} as text", "bytes that are none", "unpack it, if it is compressed"
        ) from None
