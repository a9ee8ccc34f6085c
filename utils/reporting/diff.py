"""Two cfg texts side by side, section by section.

Sections are paired by number, not by similarity: a cfg has dozens of sections that differ in one number,
and a diff of the whole text would pair the wrong ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, zip_longest


@dataclass(frozen=True)
class Line:
    """A row of the two columns; None where a column is empty."""

    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        """Whether the two differ."""
        return self.before != self.after


@dataclass(frozen=True)
class Part:
    """Neighbouring sections of one kind of change.

    Attributes:
        kind: "same", "changed" (always one section) or "removed".
        before, after: their names in each text; `after` is empty for removed ones.
        sections: how many they are.
        lines: all lines, none for "same".
    """

    kind: str
    before: str
    after: str
    sections: int
    lines: tuple[Line, ...] = ()

    @property
    def changes(self) -> tuple[Line, ...]:
        """The lines that differ."""
        return tuple(line for line in self.lines if line.changed)


def cfg_parts(before: str, after: str, moved: Mapping[int, int]) -> tuple[Part, ...]:
    """Compare two cfgs.

    Args:
        before: the cfg of the network as it was.
        after: of the network as it is.
        moved: old -> new number of every kept section; [net] has no number and is always kept.

    Raises:
        ValueError: `moved` names a section that a text does not have.

    >>> old = "[net]\\nwidth=8\\n[conv]\\nfilters=4\\nsize=1\\n"
    >>> part = cfg_parts(old, old.replace("=4", "=3"), {0: 0})[1]
    >>> part.before, part.changes
    ('#0 [conv]', (Line(before='filters=4', after='filters=3'),))
    """
    old, new = _sections(before), _sections(after)
    pairs = {-1: -1, **moved}
    if not set(pairs) <= set(old) or not set(pairs.values()) <= set(new):
        raise ValueError("moved: names sections that the cfgs do not have")
    kinds = [_kind(old, new, pairs, number) for number in old]
    return tuple(
        part for kind, run in groupby(zip(kinds, old, strict=True), lambda item: item[0])
        for part in _parts(kind, [number for _, number in run], old, new, pairs)
    )  # fmt: skip


Sections = Mapping[int, tuple[str, ...]]  # number -> its lines, the header first


def _sections(text: str) -> Sections:
    """Number -> lines; [net] is -1, so that the others are numbered as in Darknet."""
    sections: dict[int, list[str]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("["):
            sections[len(sections) - 1] = []
        if line and sections:
            sections[len(sections) - 2].append(line)
    return {number: tuple(lines) for number, lines in sections.items()}


def _kind(old: Sections, new: Sections, moved: Mapping[int, int], number: int) -> str:
    if number not in moved:
        return "removed"
    return "same" if old[number] == new[moved[number]] else "changed"


def _parts(
    kind: str, numbers: list[int], old: Sections, new: Sections, moved: Mapping[int, int]
) -> Iterator[Part]:
    if kind == "changed":
        for number in numbers:
            lines = tuple(_aligned(old[number], new[moved[number]]))
            names = _name(number, old[number]), _name(moved[number], new[moved[number]])
            yield Part(kind, *names, 1, lines)
        return
    lines = ()
    if kind == "removed":
        lines = tuple(Line(line, None) for number in numbers for line in old[number])
    ends = [moved[number] for number in numbers if number in moved]
    yield Part(kind, _span(numbers), _span(ends), len(numbers), lines)


def _aligned(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[Line]:
    for _, first, last, low, high in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for before, after in zip_longest(old[first:last], new[low:high]):
            yield Line(before, after)


def _name(number: int, lines: tuple[str, ...]) -> str:
    return lines[0] if number < 0 else f"#{number} {lines[0]}"


def _span(numbers: list[int]) -> str:
    names = ["[net]" if number < 0 else f"#{number}" for number in numbers]
    return f"{names[0]} – {names[-1]}" if len(names) > 1 else "".join(names)
