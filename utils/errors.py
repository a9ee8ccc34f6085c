"""What can go wrong for a user, by kind.

Every message reads "place: fact; remedy", so that it can be acted on without a traceback:
the scripts print it on one line and exit with code 2. Checks that go on collect a `Finding` for each instead.
"""

from dataclasses import dataclass
from typing import Literal


class ToolkitError(Exception):
    """Something that the user can mend; the message says where, what and how.

    Attributes:
        exit_code: of a script that ends with it.
    """

    exit_code: int = 2


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
        """An error as a finding; `place` stands in where the message names none.

        >>> Finding.of(DatasetError("a.txt:3: is empty; fill it"), "a.data").remedy
        'fill it'
        """
        where, separator, rest = str(error).partition(": ")
        fact, _, remedy = (rest if separator else where).partition("; ")
        return cls("error", where if separator else place, fact, remedy)

    def __str__(self) -> str:
        return f"{self.place}: {self.fact}" + (f"; {self.remedy}" if self.remedy else "")
