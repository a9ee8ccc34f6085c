"""Progress of what takes long: a bar for commands, nothing for callers from Python unless they want it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Wraps what is iterated over, to show how far it is; `tqdm.tqdm` and `rich.progress.track` are such."""

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
def advancing(track: Track, count: int, label: str) -> Iterator[Callable[[int], None]]:
    """Progress that is told in steps, not by iterating.

    >>> with advancing(untracked, 8, "reading") as advance:
    ...     advance(3)

    Args:
        track: what shows it.
        count: of all steps.
        label: what it is about.

    Returns:
        A context whose value takes the number of steps done since it was called last.
    """
    steps = iter(track(range(count), label))

    def advance(done: int) -> None:
        deque(islice(steps, done), maxlen=0)

    try:
        yield advance
    finally:
        close = getattr(steps, "close", None)  # of a generator: takes its bar away
        if close is not None:
            close()
