"""What a format cannot do, said before any work is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ExportError
from .job import Precision


@dataclass(frozen=True)
class Limits:
    """Of one format.

    Attributes:
        format: for messages.
        refused: precisions that it is not offered in: for each "why; what to do instead".
        fixed: "why; what to do instead" where batch and size cannot be left open; empty where they can.
    """

    format: str
    refused: Mapping[Precision, str] = field(default_factory=dict)
    fixed: str = ""

    def check(self, precision: Precision, is_open: bool) -> None:
        """Refuse what the format cannot do.

        Args:
            precision: of the file.
            is_open: whether batch or size are left open.

        Raises:
            ExportError: with the reason and what to do instead.
        """
        if precision in self.refused:
            raise ExportError(f"{self.format} {precision}", f"{self.refused[precision]}")
        if self.fixed and is_open:
            raise ExportError(self.format, self.fixed)
