"""SIGINT and SIGTERM during a training: the current step is finished and a checkpoint saved first.

Invariant: a second signal more than REPEATED seconds after the first one ends the program at once; until then
it counts as the same request, which a process group and its parent may both send.
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
    """The training was interrupted and has saved its state; the exit code is 128 + the signal."""

    def __init__(self, place: str, remedy: str, number: int) -> None:
        super().__init__("training", f"interrupted {place}", remedy)
        self.args = (place, remedy, number)
        self.exit_code = 128 + number


class Interruption:
    """The signal that was received: 0 or its number."""

    def __init__(self) -> None:
        self.signal = 0
        self.at = 0.0


@contextmanager
def listening() -> Iterator[Interruption]:
    """Record the first of SIGNALS inside the block; afterwards the former handlers are restored."""
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
