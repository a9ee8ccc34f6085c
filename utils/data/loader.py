"""Batches of samples, prefetched by worker processes.

Invariant: the batches of an epoch depend on the dataset, the seed and the epoch alone: they are the same with
any number of workers, after resuming, and for any start method of processes.
"""

import itertools
import logging
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DatasetError
from .dataset import DetectionDataset, Sample
from .images import Placement
from .sampling import IN_ORDER, SEEDS, EpochBatches, EpochSampler, Sampling, repeat_factors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Images of one size and their objects.

    Attributes:
        images: (B, 3, H, W) float32 in 0..1, RGB, in channels_last memory order.
        targets: (M, 6) float32: number of the image in the batch, class, then xywh as fractions of the input.
        paths: B image files.
        sizes: B heights and widths of the original images.
        placements: B placements of the originals in the input, to bring boxes back; meaningless if augmented.
        numbers: B numbers of the images in the dataset.
        problems: one "file:line: fact" for each image that was skipped.
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
        """Split into at most `parts` batches of nearly equal length, in order; without the problems."""
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


class Loader:
    """Iterator over the batches of a dataset, one pass for each epoch.

    Attributes:
        dataset: source of the samples.
        batches: samples, or batches of them, behind worker processes.
        sampler: of their keys.
        batch_size: most images in a batch.
        position: batches of the current pass that were read so far, including those without a usable image:
            what to skip to continue from here.
        problems: "file:line: fact" of every image that could not be used so far, each once.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: "DataLoader[Any]",
        sampler: EpochSampler | EpochBatches,
        batch_size: int,
        in_step: bool = False,
    ) -> None:
        """Set up; `batches` yields single samples if the dataset has rectangles.

        `in_step`: other processes wait for each batch of this one, so none may be skipped.
        """
        self.dataset, self.batch_size = dataset, batch_size
        self.problems: dict[str, None] = {}
        self.position = 0
        self.batches = batches
        self.sampler = sampler
        self._skip = 0
        self._in_step = in_step

    def __len__(self) -> int:
        """Number of batches in an epoch; with rectangles an upper bound, as shapes are not yet known."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._collated():
            self.position += 1
            self._report(batch.problems)
            if len(batch):
                yield batch
            elif self._in_step:
                fact = "a batch has no usable image, and all processes must take the same number of batches"
                raise DatasetError("training", fact, "correct the images named above")

    def _collated(self) -> Iterable[Batch]:
        if self.dataset.rectangles is None:
            return self.batches
        skip, self._skip = self._skip, 0
        return itertools.islice(by_shape(self.batches, self.batch_size), skip, None)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Set the epoch of the next pass, without its first `skip` batches.

        Without this call each pass is the next epoch. With rectangles the skipped images are still read: only
        their shapes show which batches they form.
        """
        whole = self.dataset.rectangles is not None
        self.position = skip
        self.sampler.epoch, self.sampler.skip = epoch, 0 if whole else skip
        self._skip = skip if whole else 0

    def _report(self, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in self.problems:
                logger.warning("%s; image skipped", problem)
                self.problems[problem] = None


def make_loader(
    dataset: DetectionDataset,
    batch_size: int,
    sampling: Sampling = IN_ORDER,
    *,
    workers: int = 0,
    seed: int = 0,
    pin: bool = False,
    distributed: bool = False,
) -> Loader:
    """Make a loader with worker processes for a dataset.

    Args:
        dataset: what to load.
        batch_size: images in a batch; fewer if images are unusable.
        sampling: how images are drawn; by default each once, in order.
        workers: processes that prefetch; 0 reads in this process.
        seed: of the order and the augmentation.
        pin: page-locked memory, for copies to a GPU.
        distributed: load only this process's share of torch.distributed.
    """
    rank, world = 0, 1
    if distributed:
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    repeats = repeat_factors(dataset.index.labels, dataset.classes) if sampling.class_balanced else None
    keys = EpochSampler(len(dataset), sampling.shuffle, seed, rank, world, repeats)
    sampler: EpochSampler | EpochBatches = keys
    options: dict[str, Any] = {"batch_size": None, "sampler": keys, "collate_fn": _as_it_is}
    if dataset.rectangles is None:
        sampler = EpochBatches(
            keys,
            batch_size,
            dataset.image_size,
            drop_last=sampling.drop_last and len(keys) >= batch_size,
            multi_scale=sampling.multi_scale,
            aspects=dataset.aspects() if sampling.aspects else None,
            step=sampling.aspects or 1,
        )
        options = {"batch_sampler": sampler, "collate_fn": collate}
    loaded = _behind_workers(dataset, workers, pin, seed, **options)
    return Loader(dataset, loaded, sampler, batch_size, in_step=distributed and sampling.shuffle)


def _behind_workers(
    dataset: DetectionDataset, workers: int, pin: bool, seed: int, **options: Any
) -> "DataLoader[Any]":
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        # a separate one, so that loading does not advance torch's global random state
        generator=torch.Generator().manual_seed(seed % SEEDS),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        **options,
    )


def by_shape(samples: Iterable[Sample | str], batch_size: int) -> Iterator[Batch]:
    """Group samples into batches of one input shape: full ones as they fill, the rest at the end."""
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
    """Stack samples into a batch; texts among them become its problems."""
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
    # on Ctrl-C the main process ends its workers; none of them needs to print a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A job is ended by a signal to its whole group, but the current step still needs its batches: SIGTERM
    # counts only from the main process.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
