"""What a format cannot do, said before any work is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.errors import ExportError
from utils.export.job import Exporting, Precision


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

    def check(self, job: Exporting) -> None:
        """Refuse a job that the format cannot do.

        Raises:
            ExportError: with the reason and what to do instead.
        """
        if job.precision in self.refused:
            raise ExportError(f"{self.format} {job.precision}: {self.refused[job.precision]}")
        if self.fixed and (job.dynamic_batch or job.dynamic_size):
            raise ExportError(f"{self.format}: {self.fixed}")
