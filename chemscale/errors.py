"""Errors that answer: what was asked, what was found, what to do.

Every error that a user can cause derives from `ChemscaleError` and carries the exit code of the command that meets it.
"""

from __future__ import annotations


class ChemscaleError(Exception):
    """Base of all errors that a command reports in one message, without a traceback."""

    exit_code = 1


class InputError(ChemscaleError, ValueError):
    """The input is wrong: names what was asked, what was found and what to do (exit code 2)."""

    exit_code = 2

    def __init__(self, asked: str, found: str, do: str) -> None:
        self.asked, self.found, self.do = asked, found, do
        super().__init__(f"{asked}: found {found}; {do}")

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
