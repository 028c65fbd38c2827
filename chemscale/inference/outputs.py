"""Where results of a model may be written; seen to before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from chemscale.errors import InputError
from chemscale.io import regular_file

# file systems take 255; the name of a temporary file is longer
_MAX_NAME_BYTES = 200


def new_folder(path: Path) -> None:
    """Make a folder, or take one that is empty.

    Raises:
        InputError: a file or a folder with files is there, or none can be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = next(path.iterdir(), None) is not None
    except FileExistsError:
        taken = True
    except OSError as error:
        raise InputError(f"write into {path}", f"no place for a folder ({error.strerror})", "name another") from None
    if taken:
        raise InputError(f"write into {path}", "a file, or a folder that is not empty", "name a new folder")
    _check_writable(path)


def output_file(path: Path, inputs: list[Path]) -> None:
    """See that a file can be written, or written over, and that it is none of those that are read.

    Args:
        path: of the file, whose folder is made where it is missing.
        inputs: files and folders that the work reads.

    Raises:
        InputError: it is an input or lies in one, it is no regular file, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"write {path}", f"no place for a file ({error.strerror})", "name another") from None
    if len(os.fsencode(path.name)) > _MAX_NAME_BYTES:
        raise InputError(f"write {path}", f"a name of more than {_MAX_NAME_BYTES} bytes", "name another")
    if os.path.lexists(path):
        regular_file(path, do="name a file to write")
        for source in inputs:
            if os.path.exists(source) and path.resolve().is_relative_to(source.resolve()):
                raise InputError(f"write {path}", f"a part of the input {source}", "name another file")
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"write into {folder}", "a folder that may not be written", "name another")
