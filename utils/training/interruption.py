"""Ctrl-C and a request to end: the step that runs is finished and saved first.

Invariant: a second signal, REPEATED seconds after the first, ends the program at once, as if nobody
listened; until then it is the same request, told to the group and by the parent.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import ToolkitError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEATED = 1.0


class InterruptedTrainingError(ToolkitError):
    """The training was asked to end and has saved its state; the exit code is 128 + the signal."""

    def __init__(self, place: str, remedy: str, number: int) -> None:
        super().__init__("", f"interrupted {place}", remedy)
        self.args = (place, remedy, number)
        self.exit_code = 128 + number


class Interruption:
    """Whether a signal has come: 0 or its number."""

    def __init__(self) -> None:
        self.signal = 0
        self.at = 0.0


@contextmanager
def listening() -> Iterator[Interruption]:
    """Note the first of SIGNALS inside the block; outside, they mean what they did before."""
    interruption = Interruption()

    def note(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not interruption.signal:
            interruption.signal, interruption.at = number, now
        elif now - interruption.at > REPEATED:
            for each in SIGNALS:
                signal.signal(each, before[each])
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, note)
    except ValueError:  # not the main thread, which alone may listen
        yield interruption
        return
    try:
        yield interruption
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])
