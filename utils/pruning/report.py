"""Report of a pruning run: the JSON beside the new weights.

Invariant: parameters and multiply-adds in a report are those of the saved network, read back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..profiling import Latency
from .channels import UnitMask, encode_mask


@dataclass(frozen=True)
class Figures:
    """Size, cost and accuracy of one network.

    Attributes:
        parameters: number of parameters.
        macs: multiply-adds for one image.
        file_size: bytes of its weights file.
        map50: mAP@0.5, 0..1; None if not measured.
        latency: milliseconds for one image; None if not measured.
    """

    parameters: int
    macs: int
    file_size: int
    map50: float | None = None
    latency: Latency | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "file_size": self.file_size,
            "map50": self.map50,
            "latency_ms": None if self.latency is None else asdict(self.latency),
        }


@dataclass(frozen=True)
class SectionChange:
    """One convolution before and after.

    Attributes:
        index: Darknet's layer number in the input cfg.
        mask: (filters before,) which output channels are kept; all False for a removed section.
        removed: whether the whole section was removed.
    """

    index: int
    mask: UnitMask
    removed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; the mask as "n:hex", the hex of `numpy.packbits`."""
        return {
            "index": self.index,
            "filters_before": len(self.mask),
            "filters_after": int(self.mask.sum()),
            "removed": self.removed,
            "kept": encode_mask(self.mask),
        }


@dataclass(frozen=True)
class Check:
    """One line of the equality ledger: two networks that should compute the same, and their difference.

    Attributes:
        name: the two, such as "zeroed / compact".
        difference: largest difference of their outputs over the largest output; None if not computed.
        tolerance: largest accepted difference; None for information only.
        note: where and how they were compared, or why not.
    """

    name: str
    difference: float | None
    tolerance: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance, or unknown; NaN fails."""
        if self.difference is None or self.tolerance is None:
            return True
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.name}: n/a ({self.note})"
        limit = "" if self.tolerance is None else f" of at most {self.tolerance:.0e}"
        return f"{self.name}: {self.difference:.1e}{limit}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class PruningReport:
    """A pruning run.

    Attributes:
        strategy: name of the script.
        arguments: its options.
        image_size: height and width at which MACs, latency and mAP were measured.
        timed_on: the runtime of the latencies, with its version.
        map50: mAP@0.5 by stage: "before", "gamma_masked", "folded", "compact", "recalibrated" if there is
            one, or the stages of several rounds; None if not measured.
        ledger: the comparisons of networks.
        notes: remarks for the user, one sentence each.
    """

    strategy: str
    arguments: Mapping[str, Any]
    image_size: tuple[int, int]
    before: Figures
    after: Figures
    timed_on: str
    map50: Mapping[str, float | None]
    sections: tuple[SectionChange, ...]
    ledger: tuple[Check, ...]
    threshold: float | None
    removed_blocks: tuple[int, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {
            "strategy": self.strategy,
            "arguments": dict(self.arguments),
            "image_size": list(self.image_size),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "timed_on": self.timed_on,
            **{stage: {"map50": value} for stage, value in self.map50.items() if stage != "before"},
            "sections": [section.to_json() for section in self.sections],
            "ledger": [asdict(check) | {"passed": check.passed} for check in self.ledger],
            "threshold": self.threshold,
            "removed_blocks": list(self.removed_blocks),
            "notes": list(self.notes),
        }
