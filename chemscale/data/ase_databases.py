"""SQLite databases of ASE, read row by row without ASE: nothing in a stranger's file is run, or written to.

Blobs are arrays of numbers, and all else is JSON. ASE would make objects of its own of what the JSON says, make arrays
of any size, and read tables by whatever name the file gives.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.blocks import LARGEST_MOLECULE, UNKNOWN, Frame, Rejected
from chemscale.data.electronic_states import statements
from chemscale.errors import DataError

_MAGIC = b"SQLite format 3\0"
_VERSIONS = (5, 9)  # the first and the last version of ASE's tables that are read
_LARGEST_VALUE = 1 << 24  # bytes; a number of JSON takes ten times as many in memory
_NUMBERS = ("id", "energy", "free_energy", "magmom")
_TEXTS = ("unique_id", "username", "calculator")
_ARRAYS = ("forces", "stress", "dipole", "magmoms", "charges", "initial_magmoms", "initial_charges")
_OTHERS = ("numbers", "positions", "pbc", "charge", "key_value_pairs", "data", "calculator_parameters")
_NEEDED = ("id", "numbers", "positions", "pbc", "energy", "forces", "key_value_pairs")


def frames(path: Path) -> Iterator[Frame | Rejected]:
    """The rows of a database in the order of their ids.

    Raises:
        DataError: the file is no database of ASE, of a version that is not read, or damaged.
    """
    last = 0
    try:
        with open(path, "rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise sqlite3.DatabaseError("it is not SQLite")
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
            connection.execute("PRAGMA trusted_schema = OFF")
            columns = _columns(connection)
            names = ", ".join(columns)
            for values in connection.execute(f"SELECT {names} FROM systems ORDER BY id"):
                row = dict(zip(columns, values, strict=True))
                last = row["id"]
                yield _row(row, f"{path}, id {last}")
    except (sqlite3.Error, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"read {path} after id {last}", f"no database of ASE, or a damaged one ({error})", "get it again"
        ) from None


def _columns(connection: sqlite3.Connection) -> list[str]:
    """The columns of the table of systems that are read."""
    tables = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = 'systems'").fetchall()
    if not tables:
        raise sqlite3.DatabaseError("it has no table systems")
    kind, made = tables[0]
    if kind != "table" or not str(made).upper().startswith("CREATE TABLE"):
        # a view, or a virtual table, may compute without end
        raise sqlite3.DatabaseError("its systems are no plain table")
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(systems)")}
    if missing := [name for name in _NEEDED if name not in known]:
        raise sqlite3.DatabaseError(f"its table systems has no column {', '.join(missing)}")
    (version,) = connection.execute("SELECT value FROM information WHERE name = 'version'").fetchone() or (0,)
    if not _VERSIONS[0] <= int(version) <= _VERSIONS[1]:
        raise sqlite3.DatabaseError(f"version {version} of ASE's tables, not {_VERSIONS[0]} to {_VERSIONS[1]}")
    return [name for name in (*_NUMBERS, *_TEXTS, *_ARRAYS, *_OTHERS) if name in known]


def _row(row: Mapping[str, Any], where: str) -> Frame | Rejected:
    """A row as a frame, or rejected where its values are not as ASE writes them."""
    try:
        numbers = _array(row["numbers"], np.int32).astype(np.int64)
        positions = _array(row["positions"], np.float64).reshape(-1, 3)
        if len(numbers) > LARGEST_MOLECULE:
            return Rejected(UNKNOWN, "too_many_atoms", where, note=f"{len(numbers):,} atoms")
        if len(numbers) != len(positions):
            raise ValueError(f"{len(numbers)} atoms at {len(positions)} positions")
        arrays = {
            name: _array(row[name], np.float64).reshape((-1, 3) if name == "forces" else -1)
            for name in _ARRAYS
            if row.get(name) is not None
        }
        plain = {name: row[name] for name in (*_NUMBERS, *_TEXTS) if row.get(name) is not None}
        pairs, data, parameters = (_decoded(row.get(name)) for name in _OTHERS[-3:])
    except (ValueError, TypeError, IndexError, RecursionError, OverflowError) as error:
        return Rejected(UNKNOWN, "unreadable", f"{where}: {error}")
    # words and truth values among a calculator's parameters are its options, such as spin: collinear
    settings = {key: value for key, value in parameters.items() if type(value) in (int, float)}
    stated = {**arrays, **plain, "key_value_pairs": pairs, "data": data, "calculator_parameters": settings}
    if row.get("charge") and "initial_charges" not in arrays:
        # ASE fills this column with the sum of the initial charges, or 0
        stated["charge"] = row["charge"]
    properties = {**data, **arrays, **plain, **pairs}
    texts = {key: str(value) for key, value in properties.items() if isinstance(value, str | int | float)}
    return Frame(
        numbers, positions, bool(row["pbc"]), properties, texts, statements(_without_doubles(stated)), where, ""
    )


def _without_doubles(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Key-value pairs beside the columns, by their own names where no column has it."""
    pairs = stated["key_value_pairs"]
    own = {key: value for key, value in pairs.items() if key not in stated}
    return {**stated, **own, "key_value_pairs": {key: pairs[key] for key in pairs if key not in own}}


def _array(blob: Any, dtype: type) -> NDArray[Any]:
    if not isinstance(blob, bytes):
        raise TypeError(f"{type(blob).__name__} instead of an array")
    return np.frombuffer(blob, np.dtype(dtype).newbyteorder("<"))


def _decoded(value: Any) -> dict[str, Any]:
    """Key-value pairs, data or parameters: JSON, or JSON behind the arrays that it refers to by their places."""
    if value is None:
        return {}
    blob = b""
    if isinstance(value, bytes):
        blob = value
        value = blob[int(np.frombuffer(blob[:8], "<i8")[0]) :].decode()
    found = _plain(json.loads(value), blob)
    return found if isinstance(found, dict) else {}


def _plain(value: Any, blob: bytes) -> Any:
    """A JSON value with its arrays as such, and None in place of arrays of anything but numbers."""
    if isinstance(value, list):
        return [_plain(item, blob) for item in value]
    if not isinstance(value, dict):
        return value
    if "__ndarray__" not in value:
        return {key: _plain(item, blob) for key, item in value.items()}
    shape, name, content = value["__ndarray__"]
    dtype = np.dtype(str(name))
    if dtype.kind not in "iufb":
        return None
    if isinstance(content, list):
        return np.array(content, dtype).reshape(shape)
    count = math.prod(shape)
    return np.frombuffer(blob, dtype.newbyteorder("<"), count, int(content)).reshape(shape) if count else None
