"""The digits of scikit-learn at 32 px, with three labels each, for heads of different sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PIXELS = 32
# head -> number of classes
HEADS = {"digit": 10, "odd or even": 2, "low, middle, high": 3}
TRAINING = 600  # of 1797; few, so that networks differ


@dataclass(frozen=True)
class Digits:
    """Images and labels.

    Attributes:
        images: (N, 1, 32, 32), mean 0 and standard deviation 1 over the training images.
        answers: for each head (N,) class numbers.
    """

    images: Tensor
    answers: tuple[Tensor, ...]

    def __getitem__(self, chosen: Tensor) -> "Digits":
        return Digits(self.images[chosen], tuple(answer[chosen] for answer in self.answers))

    def __len__(self) -> int:
        return len(self.images)


def load_digits() -> tuple[Digits, Digits]:
    """600 training and 1197 test images, always the same.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed; the message has the pip line.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError as error:
        fact = "scikit-learn: not installed, but needed for the digits"
        raise ModuleNotFoundError(f"{fact}; pip install scikit-learn==1.9.1") from error
    found = load()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    small = torch.from_numpy(found.images).float()[order, None]
    images = functional.interpolate(small, size=(PIXELS, PIXELS), mode="bilinear")
    mean, deviation = images[:TRAINING].mean(), images[:TRAINING].std()
    digit = torch.from_numpy(found.target).long()[order]
    # 0..3, 4..6, 7..9
    third = (digit > 3).long() + (digit > 6).long()
    digits = Digits((images - mean) / deviation, (digit, digit % 2, third))
    numbers = torch.arange(len(digits))
    return digits[numbers < TRAINING], digits[numbers >= TRAINING]
