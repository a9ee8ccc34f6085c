"""Batches of samples, read ahead by worker processes.

Invariant: the batches of an epoch depend on the dataset, the seed and the epoch alone: the same with any
number of workers, after resuming, and whichever way processes are started.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from utils.data.dataset import DetectionDataset, Sample, SampleKey
from utils.data.images import Placement

logger = logging.getLogger(__name__)

SEEDS = 2**63  # torch's generators take no larger seed


@dataclass(frozen=True)
class Batch:
    """Some images of one size and their objects.

    Attributes:
        images: (B, 3, H, W) float32 in 0..1, RGB, in channels_last memory order.
        targets: (M, 6) float32: number of the image in the batch, class, then xywh as fractions of the input.
        paths: B image files.
        sizes: B heights and widths of the original images.
        placements: B placements of the originals in the input, to bring boxes back; meaningless if augmented.
        numbers: B numbers of the images in the dataset.
        problems: one "file:line: fact" for each image that was left out.
    """

    images: Tensor
    targets: Tensor
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    placements: tuple[Placement, ...]
    numbers: tuple[int, ...]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, for DataLoader's pin_memory."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())

    def split(self, parts: int) -> Iterator["Batch"]:
        """Cut into at most `parts` batches of nearly equal length, in order; the problems are left out."""
        length = max(1, math.ceil(len(self) / parts))
        for start in range(0, len(self), length):
            rows = slice(start, start + length)
            inside = (self.targets[:, 0] >= start) & (self.targets[:, 0] < start + length)
            targets = self.targets[inside] - self.targets.new_tensor([start, 0, 0, 0, 0, 0])
            yield Batch(
                self.images[rows],
                targets,
                self.paths[rows],
                self.sizes[rows],
                self.placements[rows],
                self.numbers[rows],
            )


class EpochSampler(Sampler[SampleKey]):
    """The keys of one epoch, shuffled by (seed, epoch) and shared out among processes.

    Each pass counts the epoch up by one; `set_epoch` says where to go on.
    """

    def __init__(self, length: int, shuffle: bool, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.length / self.world)

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = list(range(self.length))
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % SEEDS)
            order = torch.randperm(self.length, generator=generator).tolist()
        # every process gets equally many, or the others would wait for it for ever
        order += order[: len(self) * self.world - self.length]
        return (SampleKey(number, epoch, self.seed) for number in order[self.rank :: self.world])


class Loader:
    """Iterate over the batches of a dataset, once for each epoch.

    Attributes:
        dataset: where the samples come from.
        batch_size: most images in a batch.
        problems: "file:line: fact" of every image that could not be used so far, each once.
    """

    def __init__(
        self, dataset: DetectionDataset, batches: "DataLoader[Any]", sampler: EpochSampler, batch_size: int
    ) -> None:
        """Put the parts together; `batches` yields single samples where the dataset has rectangles."""
        self.dataset = dataset
        self.batch_size = batch_size
        self.problems: dict[str, None] = {}
        self._batches = batches
        self._sampler = sampler

    def __len__(self) -> int:
        """Number of batches in an epoch; with rectangles at most, since shapes are known when read."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._collated():
            self._report(batch.problems)
            if len(batch):
                yield batch

    def _collated(self) -> Iterable[Batch]:
        if self.dataset.rectangles is None:
            return self._batches
        return by_shape(self._batches, self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one of this epoch; without it each pass is the next epoch."""
        self._sampler.epoch = epoch

    def _report(self, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in self.problems:
                logger.warning("%s; image skipped", problem)
                self.problems[problem] = None


def make_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    pin: bool = False,
    distributed: bool = False,
) -> Loader:
    """Put a dataset behind worker processes.

    Args:
        dataset: what to load.
        batch_size: images in a batch; fewer where images are unusable.
        shuffle: a new order each epoch.
        workers: processes that read ahead; 0 reads in this one.
        seed: decides the order and the augmentation.
        drop_last: leave out a last batch that is not full.
        pin: page-locked memory, for copies to a GPU.
        distributed: give this process of torch.distributed its share.
    """
    rank, world = 0, 1
    if distributed:
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    sampler = EpochSampler(len(dataset), shuffle, seed, rank, world)
    one_shape = dataset.rectangles is None
    collate_fn: Callable[[Any], Any] = collate if one_shape else _as_it_is
    batches: DataLoader[Any] = DataLoader(
        dataset,
        batch_size if one_shape else None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=pin,
        drop_last=drop_last and one_shape and len(sampler) >= batch_size,
        worker_init_fn=_start_worker,
        # of its own, so that loading does not move torch's global random state
        generator=torch.Generator().manual_seed(seed % SEEDS),
        persistent_workers=workers > 0,
    )
    return Loader(dataset, batches, sampler, batch_size)


def by_shape(samples: Iterable[Sample | str], batch_size: int) -> Iterator[Batch]:
    """Batches of one input shape each, full ones first come, first served, the others at the end."""
    waiting: dict[tuple[int, ...], list[Sample | str]] = {}
    for sample in samples:
        shape = (0,) if isinstance(sample, str) else tuple(sample.image.shape)
        waiting.setdefault(shape, []).append(sample)
        if len(waiting[shape]) == batch_size:
            yield collate(waiting.pop(shape))
    yield from map(collate, waiting.values())


def _as_it_is(sample: Sample | str) -> Sample | str:
    return sample


def collate(samples: Sequence[Sample | str]) -> Batch:
    """Stack samples into a batch; the texts among them become its problems."""
    usable = [sample for sample in samples if isinstance(sample, Sample)]
    problems = tuple(sample for sample in samples if isinstance(sample, str))
    size = tuple(usable[0].image.shape[1:]) if usable else (0, 0)
    images = torch.empty((len(usable), 3, *size), memory_format=torch.channels_last)
    targets = torch.zeros((sum(len(sample.labels) for sample in usable), 6))
    start = 0
    for number, sample in enumerate(usable):
        images[number].copy_(sample.image)
        end = start + len(sample.labels)
        targets[start:end, 0] = number
        targets[start:end, 1:] = torch.from_numpy(sample.labels)
        start = end
    return Batch(
        images.div_(255),
        targets,
        tuple(sample.path for sample in usable),
        tuple(sample.size for sample in usable),
        tuple(sample.placement for sample in usable),
        tuple(sample.number for sample in usable),
        problems,
    )


def _start_worker(_: int) -> None:
    # one thread a worker: the workers are the parallelism, and OpenCV's pool does not survive a fork
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # on Ctrl-C the main process ends its workers; they need not each print a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
