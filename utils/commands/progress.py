"""Progress of long tasks: bars for commands; callers from Python choose for themselves."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

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
