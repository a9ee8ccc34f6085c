"""What can go wrong for a user, by kind.

Every error has three parts, place, fact and remedy, and reads "place: fact; remedy", so that it can be acted
on without a traceback: the scripts print it on one line and exit with code 2. Checks that continue after an
error collect a `Finding` for each instead.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class ToolkitError(Exception):
    """Something that the user can correct.

    >>> print(ToolkitError("cfg/my.cfg:12", "filters=0", "use at least 1"))
    cfg/my.cfg:12: filters=0; use at least 1

    Attributes:
        place: file, file:line, section or option; empty where there is none to name.
        fact: what is wrong.
        remedy: what the user can do about it; empty where there is nothing to do.
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
    """A cfg uses a section or option whose semantics this project does not have."""


class WeightsError(ToolkitError):
    """A weights file or checkpoint does not fit the network."""


class PruningError(ToolkitError):
    """A pruning request cannot be fulfilled on this network."""


class DatasetError(ToolkitError):
    """A data file, image list, image or label file cannot be used."""


class ExportError(ToolkitError):
    """A network cannot be exported, or the exported file does not compute the same function."""


class MissingPackageError(ToolkitError, ImportError):
    """A package is needed that is not installed, or not as it is needed; the remedy is the pip line."""


Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What a check found, without ending the program; reads "place: fact; remedy" like the errors.

    Attributes:
        severity: "error": work started on this would fail or be for nothing; "warning": it would be worse
            than it needs to be; "note": good to know.
        place: file, file:line or section.
        fact: what is so.
        remedy: what the user can do about it; empty where there is nothing to do.
        examples: the first places, where it is about several.
    """

    severity: Severity
    place: str
    fact: str
    remedy: str = ""
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: ToolkitError, place: str) -> "Finding":
        """An error as a finding; `place` is used where the error names none.

        >>> Finding.of(DatasetError("a.txt:3", "is empty", "fill it"), "a.data").remedy
        'fill it'
        """
        return cls("error", error.place or place, error.fact, error.remedy)

    def __str__(self) -> str:
        return _sentence(self.place, self.fact, self.remedy)
