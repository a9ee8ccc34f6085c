"""Errors that a user can correct, by kind.

Every error has three parts, place, fact and remedy, and reads "place: fact; remedy", so that it can be acted
on without a traceback: the scripts print it on one line and exit with code 2. Checks that continue after an
error collect a `Finding` for each instead.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class ToolkitError(Exception):
    """An error that the user can correct.

    >>> print(ToolkitError("cfg/my.cfg:12", "filters=0", "use at least 1"))
    cfg/my.cfg:12: filters=0; use at least 1

    Attributes:
        place: file, file:line, section or option; empty if there is none.
        fact: what is wrong.
        remedy: what the user can do about it; empty if nothing.
        exit_code: exit code of a script that ends with this error.
    """

    exit_code: int = 2

    def __init__(self, place: str | Path, fact: str, remedy: str = "") -> None:
        super().__init__(place, fact, remedy)  # the arguments, so that it survives pickling
        self.place, self.fact, self.remedy = str(place), fact, remedy

    def __str__(self) -> str:
        return _sentence(self.place, self.fact, self.remedy)


def _sentence(place: str, fact: str, remedy: str) -> str:
    return (f"{place}: " if place else "") + fact + (f"; {remedy}" if remedy else "")


class CfgError(ToolkitError):
    """A cfg file cannot be read as a network; the message leads with `file:line`."""


class UnsupportedSectionError(CfgError):
    """A cfg uses an unsupported section or option."""


class WeightsError(ToolkitError):
    """A weights file or checkpoint does not fit the network."""


class PruningError(ToolkitError):
    """A network cannot be pruned as requested."""


class DatasetError(ToolkitError):
    """A data file, image list, image or label file cannot be used."""


class ExportError(ToolkitError):
    """A network cannot be exported, or the exported file does not compute the same function."""


class MissingPackageError(ToolkitError, ImportError):
    """A package is needed that is not installed, or not as it is needed; the remedy is the pip line."""


Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """A result of a check, reported without ending the program; reads "place: fact; remedy" like the errors.

    Attributes:
        severity: "error": work started with this would fail or be useless; "warning": its result would be
            worse than necessary; "note": for information.
        place: file, file:line or section.
        fact: what was found.
        remedy: what the user can do about it; empty if nothing.
        examples: the first places, if there are several.
    """

    severity: Severity
    place: str
    fact: str
    remedy: str = ""
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: ToolkitError, place: str) -> "Finding":
        """An error as a finding; `place` is used if the error has none.

        >>> Finding.of(DatasetError("a.txt:3", "is empty", "fill it"), "a.data").remedy
        'fill it'
        """
        return cls("error", error.place or place, error.fact, error.remedy)

    def __str__(self) -> str:
        return _sentence(self.place, self.fact, self.remedy)
