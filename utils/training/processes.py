"""Processes of a training: distributed data-parallel under torchrun, and the signals that end a run.

Invariant: with one process every function here does nothing. With several, a step equals that of one process
with all their batches at once, except for batch-norm statistics on CPUs, which each process has for itself.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

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


Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process and the number of all; only rank 0 writes and reports."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module, compiled: bool = False) -> nn.Module:
        """Wrap the model for training: gradients are averaged over the processes.

        On GPUs batch-norm statistics are those of all processes; torch does not support that on CPUs. The
        parameters stay the same objects.
        """
        if self.count == 1:
            called = model
        elif next(model.parameters()).device.type == "cuda":
            called = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model))
        else:
            called = DistributedDataParallel(model)
        return torch.compile(called) if compiled else called  # type: ignore[return-value]

    def average(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.count

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether `value` is true in any process; all get the same answer."""
        if self.count == 1:
            return value
        return bool(self.average(torch.tensor(float(value), device=device)) > 0)

    def merged(self, found: dict[Key, Value]) -> dict[Key, Value]:
        """Merge the dicts of all processes."""
        if self.count == 1:
            return found
        parts: list[dict[Key, Value]] = [{} for _ in range(self.count)]
        distributed.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def align(self, model: nn.Module) -> None:
        """Copy parameters and buffers of the first process to all; buffers diverge on CPUs."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            distributed.barrier()


def local_device(device: torch.device) -> torch.device:
    """Device of this process: under torchrun, each CUDA process has its own."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Process group of a torchrun launch (nccl on CUDA, gloo elsewhere), for the `with` block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def gradient_sync(model: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """Skip averaging gradients over processes where more batches follow before the optimizer step."""
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
