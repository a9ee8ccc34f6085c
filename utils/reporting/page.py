"""The report of a pruning run as one self-contained HTML file: no scripts, nothing to download.

Invariant: every text is escaped (names of classes and files, cfgs), and the content security policy of the
page forbids loading anything.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from ..files import write_text
from . import charts
from . import charts as figures
from .diff import cfg_parts

# Explanations of the stages, for readers who see their names for the first time.
STAGES: Mapping[str, str] = {
    "before": "the unpruned network",
    "gamma_masked": "same size, the batch-norm scales of removed channels set to 0: "
    "they still output a constant",
    "folded": "removed channels set to 0, their constants folded into the next layers (unless --fold off)",
    "compact": "removed channels cut out, written to disk and read back",
    "recalibrated": "the compact network with re-estimated batch-norm statistics",
    "last_pruned": "the network after the last round of pruning, before its fine-tuning",
    "fine_tuned": "the same network after fine-tuning, written to disk and read back",
}
MOST_NUMBERED = 10  # boxes of a sample with a number and a line of their own


@dataclass(frozen=True)
class Card:
    """A figure of the summary, as texts; `share` of it is left (0..1 or more), drawn as a bar."""

    label: str
    before: str
    after: str
    change: str
    share: float | None = None


@dataclass(frozen=True)
class SectionRow:
    """A section with filters, or a layer of another network, before and after.

    Attributes:
        index: Darknet's number of it in the cfg before; None for a layer.
        label: what it is, such as "3×3 / 2".
        filters_before: how many it had.
        filters_after: how many it has; 0 if it was removed.
        removed: whether the whole section is removed.
        group: number of the group of sections whose outputs shortcuts add; None without one.
        parameters: learnable values before and after.
        macs: multiply-adds on one image before and after.
        milliseconds: for one image before and after; None where it was not measured.
    """

    index: int | None
    label: str
    filters_before: int
    filters_after: int
    removed: bool
    group: int | None
    parameters: tuple[int, int]
    macs: tuple[int, int]
    milliseconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class ClassRow:
    """A class: number of labelled objects, and AP at IoU 0.5 before and after, 0..1."""

    name: str
    objects: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """In fractions, negative for a loss."""
        return self.after - self.before


@dataclass(frozen=True)
class Box:
    """A detection on a sample.

    Attributes:
        xyxy: corners as fractions of the image.
        label: its class.
        score: 0..1.
        kind: "kept" (both networks have it), "lost" (only the one before) or "gained" (only the one after).
        right: whether it matches a labelled object; None if unknown.
    """

    xyxy: tuple[float, float, float, float]
    label: str
    score: float
    kind: str
    right: bool | None = None


@dataclass(frozen=True)
class Sample:
    """An image with boxes: `image` is a JPEG file, `size` its (height, width)."""

    name: str
    image: bytes
    size: tuple[int, int]
    boxes: tuple[Box, ...] = ()

    @property
    def data_uri(self) -> str:
        """The image as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.image).decode("ascii")

    @property
    def changes(self) -> tuple[Box, ...]:
        """Boxes lost, then boxes gained, best first."""
        order = {"lost": 0, "gained": 1}
        changed = [box for box in self.boxes if box.kind in order]
        return tuple(sorted(changed, key=lambda box: (order[box.kind], -box.score)))

    @property
    def numbered(self) -> tuple[Box, ...]:
        """Those of `changes` with the best scores, as many as remain readable."""
        best = sorted(self.changes, key=lambda box: -box.score)[:MOST_NUMBERED]
        return tuple(box for box in self.changes if box in best)

    @property
    def kept(self) -> tuple[Box, ...]:
        """Boxes of both networks."""
        return tuple(box for box in self.boxes if box.kind == "kept")

    @property
    def badges(self) -> tuple[tuple[float, float], ...]:
        """Position of each number of `numbered`: lost at the upper left, gained at the lower right."""
        corners = [box.xyxy[:2] if box.kind == "lost" else box.xyxy[2:] for box in self.numbered]
        return charts.badge_centers(corners, self.size[1] / self.size[0])


@dataclass(frozen=True)
class CheckRow:
    """A check of a run.

    Attributes:
        name: what was compared.
        difference: largest one found; None if it was not measured, `note` says why.
        tolerance: largest one allowed; None where the difference is for information only.
        note: how it was measured.
    """

    name: str
    difference: float | None
    tolerance: float | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """The result: "passed", "failed", "information" or "not measured"."""
        if self.difference is None:
            return "not measured"
        if self.tolerance is None:
            return "information"
        return "passed" if self.difference <= self.tolerance else "failed"


@dataclass(frozen=True)
class Page:
    """Content of a report; empty parts are left out.

    Attributes:
        title: the heading.
        subtitle: a sentence below it.
        facts: (name, value) of the command, files, image size.
        cards: the summary.
        stages: mAP@0.5 (0..1) of each network of the run, by the names of STAGES; None: not measured.
        sections: those with filters, in order.
        other_milliseconds: of all other sections together, before and after.
        scores: (channels,) of all that could be removed; `kept` says which are kept, None: unknown.
        threshold: channels with a lower score are removed.
        classes: accuracy by class; those without objects left out.
        samples: images with boxes; `samples_note` says how they were chosen.
        checks: the comparisons of networks.
        score: name of the score.
        merge: how sections whose outputs shortcuts add decide together, as --merge.
        notes: what the user should know, one sentence each.
        part: what the rows of `sections` are: "section" or "layer".
        cfg_before, cfg_after: texts of the cfgs; empty without any.
        moved: old -> new number of every kept section.
    """

    title: str
    cfg_before: str
    cfg_after: str
    moved: Mapping[int, int]
    subtitle: str = ""
    facts: Sequence[tuple[str, str]] = ()
    cards: Sequence[Card] = ()
    stages: Sequence[tuple[str, float | None]] = ()
    sections: Sequence[SectionRow] = ()
    other_milliseconds: tuple[float, float] | None = None
    scores: NDArray[np.floating] = field(default_factory=lambda: np.zeros(0))
    kept: NDArray[np.bool_] | None = None
    threshold: float | None = None
    score: str = "gamma"
    merge: str = "union"
    classes: Sequence[ClassRow] = ()
    samples: Sequence[Sample] = ()
    samples_note: str = ""
    checks: Sequence[CheckRow] = ()
    notes: Sequence[str] = ()
    part: str = "section"


def render(page: Page) -> str:
    """The whole HTML file as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "short": figures.short,
        "percent": figures.percent,
        "points": figures.points,
        "small": figures.small,
        "digits": figures.digits,
    }
    return environment.get_template("page.html").render(
        page=page,
        rows=list(zip(page.sections, charts.strands([row.group for row in page.sections]), strict=True)),
        measured=[(name, value) for name, value in page.stages if value is not None],
        meanings=STAGES,
        histogram=charts.histogram(page.scores, page.kept, page.threshold),
        classes=sorted(page.classes, key=lambda row: (row.change, row.name)),
        parts=cfg_parts(page.cfg_before, page.cfg_after, page.moved) if page.cfg_before else (),
    )


def write_page(path: Path, page: Page) -> None:
    """Write the file, whole or not at all."""
    write_text(path, render(page))
