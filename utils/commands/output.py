"""Output of the commands: tables, number formats, progress, JSON files and the next command to type."""

import dataclasses
import itertools
import json
import math
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..cli import as_typed
from ..detection.evaluator import Evaluation
from ..errors import ToolkitError
from ..files import write_text


def plain(value: Any) -> Any:
    """`value` as JSON values: dataclasses become dicts, paths text, arrays lists, NaN and inf null.

    >>> plain({"map50": float("nan"), "cfg": Path("cfg/x.cfg"), 3: (1, 2)})
    {'map50': None, 'cfg': 'cfg/x.cfg', '3': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _text(value: object) -> str:
    return value.as_posix() if isinstance(value, Path) else str(value)


def write_json(path: Path, mapping: Mapping[str, Any]) -> None:
    """Write `mapping` (see `plain`) to `path` as a whole or not at all."""
    write_text(path, json.dumps(plain(mapping), indent=2) + "\n")


def read_report(path: Path, remedy: str = "give another --report") -> dict[str, Any]:
    """The JSON that a pruning run wrote.

    Raises:
        ToolkitError: it is missing or not a JSON object; with the remedy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fact = "not found; it is the JSON file of the pruning run"
        raise ToolkitError(path, fact, "name it with --report") from error
    except (OSError, ValueError) as error:
        raise ToolkitError(path, f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(content, dict):
        raise ToolkitError(path, "not the report of a pruning run", remedy)
    return content


def next_command(*parts: str) -> None:
    """Print the command to type next, also from another folder than that of the scripts.

    Args:
        parts: the line in one or more pieces, empty ones among them; the first begins "python script".
    """
    line = " ".join(filter(None, parts))
    program, script, *rest = line.split(" ", 2)
    folder = Path(sys.argv[0]).parent
    if (folder / "models.py").is_file() and (folder / script).is_file():
        line = " ".join([program, quoted(folder / script), *rest])
    print("next:", as_typed(line))


def quoted(path: Path) -> str:
    """A path as one word of a command line."""
    return shlex.quote(path.as_posix())


Item = TypeVar("Item")


class Track(Protocol):
    """Wraps an iterable to show progress; `tqdm.tqdm` and `rich.progress.track` can be used."""

    def __call__(self, items: Iterable[Item], label: str, /) -> Iterable[Item]:
        """The items, in order."""


def untracked(items: Iterable[Item], label: str, /) -> Iterable[Item]:  # noqa: ARG001 - nothing shows it
    """The items as they are."""
    return items


def bar(items: Iterable[Item], label: str, /) -> Iterable[Item]:
    """The items, under a progress bar where standard error is a terminal; one item has none."""
    from tqdm import tqdm

    is_single = isinstance(items, Sized) and len(items) == 1
    return tqdm(items, desc=label, unit="", leave=False, disable=True if is_single else None)


@contextmanager
def advancing(track: Track, steps: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Report progress in steps instead of by iterating.

    >>> with advancing(untracked, 8, "reading") as advance:
    ...     advance(3)

    Args:
        track: what shows it.
        steps: how many there are; None where that is unknown.
        label: what it is about.

    Returns:
        A context whose value takes the number of steps done since it was called last.
    """
    passed = iter(track(itertools.count() if steps is None else range(steps), label))

    def advance(done: int) -> None:
        deque(itertools.islice(passed, done), maxlen=0)

    try:
        yield advance
    finally:
        close = getattr(passed, "close", None)  # of a generator: removes its bar
        if close is not None:
            close()


def show(title: str, table: Table) -> None:
    """Print a table under its title, which is not wrapped to the width of the table."""
    print(title)
    Console().print(table)


def percent(fraction: float | None) -> str:
    """A fraction as per cent with two decimals; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def multiply_adds(value: float, whole: float | None = None) -> str:
    """Any large count, with its unit.

    Args:
        value: the count.
        whole: the number that decides unit and decimals of a column; None for `value` itself.

    >>> multiply_adds(2.7e9), multiply_adds(12_345), multiply_adds(992e6, whole=2.7e9), multiply_adds(512)
    ('2.700 G', '12.35 K', '0.992 G', '512')
    """
    most = value if whole is None else whole
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if most >= size:
            return f"{value / size:.{decimals(most / size, 4)}f} {unit}"
    return f"{value:.0f}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:.2f} MiB"


def milliseconds(value: float) -> str:
    """With their unit.

    >>> milliseconds(24.1), milliseconds(0.0412)
    ('24.10 ms', '0.0412 ms')
    """
    return f"{value:.{max(2, decimals(value, 3))}f} ms"


def decimals(value: float, digits: int) -> int:
    """Decimal places that show a positive number with `digits` significant digits, at least 0.

    >>> decimals(24.1, 3), decimals(0.0412, 3), decimals(1234.5, 3)
    (1, 4, 0)
    """
    return max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else digits - 1


def print_evaluation(figures: Evaluation, problems: Sequence[str], title: str) -> None:
    """Print a line for each class that occurs, the means, and what was wrong with the data set."""
    console = Console()
    show(title, _classes(figures))
    means = f"mAP@0.5 {figures.map50:.4f}   mAP@0.5:0.95 {figures.map50_95:.4f}   ({figures.style} style)"
    console.print(means, highlight=False, soft_wrap=True)
    if figures.by_size:
        sizes = (f"{name} {'-' if ap is None else f'{ap:.4f}'}" for name, ap in figures.by_size.items())
        console.print("mAP@0.5:0.95 by size: " + ", ".join(sizes), highlight=False, soft_wrap=True)
    shown = f"score > 0.25: precision {figures.precision:.4f}, recall {figures.recall:.4f}"
    console.print(f"{shown}   {figures.images_per_second:.1f} images/s", highlight=False, soft_wrap=True)
    for line in (*_images(figures), *problems):
        console.print(line, highlight=False, soft_wrap=True)


def _classes(figures: Evaluation) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    table.add_column("AP@0.5", justify="right")
    for name, ap in figures.per_class.items():
        if figures.truths[name]:  # Text, since a name may contain rich's markup
            table.add_row(Text(name), str(figures.truths[name]), f"{ap:.4f}")
    return table


def _images(figures: Evaluation) -> list[str]:
    lines = [f"{figures.images} images, {figures.without_objects} without objects"]
    absent = sum(count == 0 for count in figures.truths.values())
    if absent:
        counted = "count as 0 in the mean" if figures.style == "darknet" else "are left out of the mean"
        lines.append(f"{absent} of {len(figures.truths)} classes do not occur and {counted}")
    return lines
