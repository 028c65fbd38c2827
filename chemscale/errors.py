"""Errors that answer: what was asked, what was found, what to do.

Every error that a user can cause derives from `ChemscaleError` and carries the exit code of the command that meets it.
"""

from __future__ import annotations

MAX_SHOWN = 2000  # characters of a message's part


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    """`text` as one line that is safe on a terminal and on a page, at most `limit` characters long.

    Control characters, line breaks, escape codes, characters that turn the direction of text or have no width, and
    bytes of a file name that are no text stand as backslash escapes. What is left out is the middle, shown as "...".
    A second call changes nothing.
    """
    line = _cut(str(text), limit)
    if not line.isprintable():
        escaped = (
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in line
        )
        line = _cut("".join(escaped), limit)
    return line


def _cut(line: str, limit: int) -> str:
    end = limit // 4
    return line if len(line) <= limit else f"{line[: limit - end - 3]}...{line[len(line) - end :]}"


class ChemscaleError(Exception):
    """Base of all errors that a command reports in one message of one line, without a traceback."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # names and values in a message come from the user's files: no caller has to escape them
        super().__init__(shown(message, 4 * MAX_SHOWN))


class InputError(ChemscaleError, ValueError):
    """The input is wrong: names what was asked, what was found and what to do (exit code 2)."""

    exit_code = 2

    def __init__(self, asked: str, found: str, do: str) -> None:
        self.asked, self.found, self.do = shown(asked), shown(found), shown(do)
        super().__init__(f"{self.asked}: found {self.found}; {self.do}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """An error that comes from another process is made anew from its three parts."""
        return type(self), (self.asked, self.found, self.do)


class ConfigError(InputError):
    """A study's config does not describe a study that can be run."""


class DataError(InputError):
    """A data file or a data folder is not what its manifest, its source or the config says."""


class RecordError(InputError):
    """A record of a cell or of a study is missing, damaged or of another schema version."""


class TrainingError(ChemscaleError):
    """A training run cannot go on, for instance because its loss is not finite (exit code 1)."""


class DivergedError(TrainingError):
    """A loss, a gradient or a validation is not finite."""


class DiskFullError(ChemscaleError):
    """A file could not be written for want of space (exit code 1)."""


class LockedError(ChemscaleError):
    """Another process holds what this one would write (exit code 1)."""


class Stopped(ChemscaleError):  # noqa: N818 (no failure: the same command continues)
    """A signal stopped the work after a checkpoint; the same command continues it (exit code 75)."""

    exit_code = 75
