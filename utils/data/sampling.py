"""Sampling order, batch composition and multi-scale sizes.

Invariant: the batches of an epoch depend on the seed and the epoch alone, so every process draws the same
ones and takes its share, and a resumed epoch continues with the batches that would have followed.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from .dataset import SampleKey

SEEDS = 2**63  # torch's generators take no larger seed
# a class in at least this share of the images is not drawn more often
COMMON = 0.1


@dataclass(frozen=True)
class MultiScale:
    """Multi-scale training: a new input size every few batches (random=1, dynamic resizing in detector.c).

    Attributes:
        step: sizes are multiples of it, pixels.
        largest: largest factor on the network's size, or its inverse.
        every: batches of one size.
    """

    step: int
    largest: float = 1.4
    every: int = 10

    def size(self, base: tuple[int, int], seed: int, epoch: int, batch: int) -> tuple[int, int]:
        """(height, width) of a batch; `base` is the network's size."""
        rng = np.random.default_rng([seed, epoch, batch // self.every])
        factor = self.largest ** rng.uniform(-1.0, 1.0)
        height, width = (max(1, round(side * factor / self.step)) * self.step for side in base)
        return height, width


@dataclass(frozen=True)
class Sampling:
    """How the images of an epoch are drawn and batched.

    Attributes:
        shuffle: a new order each epoch.
        drop_last: leave out a last batch that is not full.
        multi_scale: how the input size changes from batch to batch.
        aspects: put images of similar aspect into one batch, whose input has that aspect, in multiples of
            this number of pixels.
        class_balanced: draw images with rare classes more often, see `repeat_factors`.
    """

    shuffle: bool = False
    drop_last: bool = False
    multi_scale: MultiScale | None = None
    aspects: int | None = None
    class_balanced: bool = False


IN_ORDER = Sampling()


class EpochSampler(Sampler[SampleKey]):
    """The keys of one epoch, shuffled by (seed, epoch) and divided among processes.

    Each pass increments `epoch`, the number of the next one. The first `skip` keys are left out of the next
    pass only.
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeats: NDArray[np.float64] | None = None,
    ) -> None:
        """Set up; `repeats` is how often each image is drawn on average, see `repeat_factors`."""
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.world, self.repeats = rank, world, repeats
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return math.ceil(self.length / self.world)

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        skip, self.skip = self.skip, 0
        own = self.order(epoch)[self.rank :: self.world]
        return (SampleKey(number, epoch, self.seed) for number in own[skip:])

    def order(self, epoch: int) -> list[int]:
        """The images of an epoch for all processes; some are repeated so that all get the same number."""
        order = list(range(self.length))
        if self.repeats is not None:
            rng = np.random.default_rng([self.seed, epoch])
            chances = self.repeats / self.repeats.sum()
            order = rng.choice(self.length, self.length, p=chances).tolist()
        elif self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % SEEDS)
            order = torch.randperm(self.length, generator=generator).tolist()
        return order + order[: len(self) * self.world - self.length]


class EpochBatches(Sampler[list[SampleKey]]):
    """The keys of an `EpochSampler` in batches, each of one input size.

    Attributes:
        skip: batches of the next pass to leave out.
    """

    def __init__(
        self,
        keys: EpochSampler,
        batch_size: int,
        image_size: tuple[int, int],
        *,
        drop_last: bool = False,
        multi_scale: MultiScale | None = None,
        aspects: NDArray[np.float64] | None = None,
        step: int = 32,
    ) -> None:
        """Set up.

        Args:
            keys: all keys of an epoch.
            batch_size: of one process.
            image_size: height and width of the network.
            drop_last: leave out a batch that is not full.
            multi_scale: how the size changes from batch to batch.
            aspects: height over width of each image: similar ones form a batch, whose input has their aspect,
                inside `image_size`, in multiples of `step`.
            step: see `aspects`.
        """
        self.keys, self.batch_size, self.image_size = keys, batch_size, image_size
        self.drop_last, self.multi_scale, self.aspects, self.step = drop_last, multi_scale, aspects, step
        self.skip = 0

    @property
    def epoch(self) -> int:
        """Number of the next pass."""
        return self.keys.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.keys.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.keys), self.batch_size)
        return full if self.drop_last and full else full + bool(rest)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        skip, self.skip = self.skip, 0
        world, rank = self.keys.world, self.keys.rank
        whole = self.batch_size * world
        order = self.keys.order(epoch)
        batches = [order[start : start + whole] for start in range(0, len(order), whole)][: len(self)]
        if self.aspects is not None:
            batches = self._alike(order, whole, epoch)
        drawn: Counter[int] = Counter()
        for number, batch in enumerate(batches):
            size, shaped = self._size(batch, epoch, number), self.aspects is not None
            keys = []
            for image in batch:
                keys.append(SampleKey(image, epoch, self.keys.seed, size, shaped, drawn[image]))
                drawn[image] += 1  # all processes count all images, including those of skipped batches
            if number >= skip:
                yield keys[rank::world]

    def _alike(self, order: Sequence[int], whole: int, epoch: int) -> list[list[int]]:
        """Batches of images of similar aspect, in random order."""
        assert self.aspects is not None
        # the rest that does not fill a batch is cut before ranking, else it would always be the tallest
        order = order[: len(self) * whole]
        ranked = sorted(order, key=lambda image: round(math.log2(self.aspects[image]) * 4))  # type: ignore[index]
        batches = [ranked[start : start + whole] for start in range(0, len(ranked), whole)]
        shuffled = np.random.default_rng([self.keys.seed, epoch]).permutation(len(batches))
        return [batches[number] for number in shuffled]

    def _size(self, batch: Sequence[int], epoch: int, number: int) -> tuple[int, int] | None:
        base = self.image_size
        if self.aspects is not None:
            aspect = float(np.exp(np.log(self.aspects[list(batch)]).mean()))
            width = min(base[1], base[0] / aspect)
            sides = (width * aspect, width)
            height, width = (max(1, math.ceil(side / self.step - 1e-6)) * self.step for side in sides)
            base = (height, int(width))
        if self.multi_scale is not None:
            return self.multi_scale.size(base, self.keys.seed, epoch, number)
        return None if base == self.image_size else base


def repeat_factors(labels: Sequence[NDArray[np.float32]], classes: int) -> NDArray[np.float64]:
    """Weights for drawing images: larger for images with a rare class.

    The repeat factor of LVIS (arXiv 1908.03195, appendix B): sqrt(COMMON / share of the images with the
    class), at least 1, the largest over an image's classes.

    Args:
        labels: for each image (n, 5), the class first.
        classes: number of classes.

    Returns:
        (images,) at least 1.
    """
    held = [np.unique(rows[:, 0].astype(np.int64)) for rows in labels]
    counts = np.bincount(np.concatenate([*held, np.empty(0, np.int64)]), minlength=classes)
    shares = counts / max(len(labels), 1)
    factors = np.maximum(1.0, np.sqrt(COMMON / np.maximum(shares, 1e-12)))
    return np.array([factors[kinds].max(initial=1.0) for kinds in held])
