"""Network Slimming from end to end on real data: the digits of scikit-learn at 32 px, in minutes.

    pip install scikit-learn==1.9.1
    python -m examples.digits
    python -m examples.digits --network ResNet --sr 0.0001 --ratios 0.3 0.5 0.7 --scratch e

A network with three heads (which digit; odd or even; low, middle or high) is trained on 600 images and tested
on 1197 others after each step of the method:

baseline    trained without penalty
sparse      trained further, with a penalty on the batch-norm gammas of the hidden layers, those inside blocks
pruned      one threshold over the gammas removes --ratios of the hidden channels but never empties a layer;
            widths are rounded up to multiples of 8 with the best removed channels
fine-tuned  trained further
distilled   fine-tuned with a teacher of another architecture: hard and softened loss 1:1, temperature 5
scratch-e   control: the pruned architecture from random weights, for the epochs of the baseline
scratch-b   the same for as many multiply-adds as the baseline took (Liu et al., "Rethinking", ICLR 2019)

The penalty moves a gamma by sr x the sum of all learning rates, ten times that with momentum. The sr of
0.0001 known from CIFAR has 60,000 steps there; the few hundred steps here hardly move a gamma, and accuracy
collapses at pruning: try it.
"""

import argparse
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from examples.digits_data import Digits, load_digits
from examples.digits_training import (
    EXAMPLE,
    NETWORKS,
    TUNING,
    accuracies,
    fit,
    fresh,
    hidden_layers,
    randomised,
)
from slim import SlimResult, apply_plan, slim

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Outcome:
    """A network after a step.

    Attributes:
        network, seed, sr: as in `Course`.
        stage: as in the manual above; "teacher" for the other network.
        ratio: share of the hidden channels to remove; 0 before pruning.
        digit, parity, third: accuracy of each head on the test images, 0..1.
        parameters: number of parameters.
        macs: multiply-adds of one image.
        epochs: training epochs of this step.
    """

    network: str
    seed: int
    sr: float
    stage: str
    ratio: float
    digit: float
    parity: float
    third: float
    parameters: int
    macs: int
    epochs: int


@dataclass(frozen=True)
class Course:
    """All steps with one network; iterate over `run()`.

    Attributes:
        network: a name of NETWORKS; the next one is the teacher.
        seed: seed of weights and order.
        sr: weight of the penalty.
        ratios: shares of the hidden channels to remove.
        epochs, tune_epochs: epochs of training and of fine-tuning.
        scratch: controls, any of "e" and "b".
        teach: whether to fine-tune with the teacher too.
    """

    network: str
    seed: int = 0
    sr: float = 0.01
    ratios: tuple[float, ...] = (0.5, 0.7)
    epochs: int = 30
    tune_epochs: int = 12
    scratch: tuple[str, ...] = ("e", "b")
    teach: bool = True

    def run(self) -> Iterator[Outcome]:
        """Run the steps in order."""
        train, test = load_digits()
        names = list(NETWORKS)
        other = names[(names.index(self.network) + 1) % len(names)]
        teacher = _baseline(other, self.seed, self.epochs) if self.teach else None
        if teacher:
            yield self._outcome("teacher", 0.0, teacher, test, self.epochs)
        model = copy.deepcopy(_baseline(self.network, self.seed, self.epochs))
        yield self._outcome("baseline", 0.0, model, test, self.epochs)
        rate = NETWORKS[self.network].rate
        fit(model, train, self.epochs, rate, seed=self.seed, title="sparse", sr=self.sr)
        yield self._outcome("sparse", 0.0, model, test, self.epochs)
        for ratio in self.ratios:
            hidden = hidden_layers(model)
            found = slim(model, EXAMPLE, ratio, "gamma", hidden, scheme="guarded", layer_keep=0.0)
            yield self._outcome("pruned", ratio, found.model, test, 0)
            yield from self._tuned(ratio, found, teacher, train, test)
            yield from self._from_scratch(ratio, found, train, test)

    def _tuned(
        self, ratio: float, found: SlimResult, teacher: nn.Module | None, train: Digits, test: Digits
    ) -> Iterator[Outcome]:
        lessons = [("fine-tuned", None)] + ([("distilled", teacher)] if teacher else [])
        for stage, taught_by in lessons:
            model, title = copy.deepcopy(found.model), f"{stage} {ratio:g}"
            rate = TUNING * NETWORKS[self.network].rate
            fit(model, train, self.tune_epochs, rate, seed=self.seed, title=title, teacher=taught_by)
            yield self._outcome(stage, ratio, model, test, self.tune_epochs)

    def _from_scratch(
        self, ratio: float, found: SlimResult, train: Digits, test: Digits
    ) -> Iterator[Outcome]:
        before, after = found.report.macs
        for kind in self.scratch:
            # The plan has the architecture only, no weights.
            model = randomised(apply_plan(fresh(self.network, self.seed), found.plan), self.seed)
            epochs = self.epochs if kind == "e" else round(self.epochs * before / after)
            rate, title = NETWORKS[self.network].rate, f"scratch-{kind} {ratio:g}"
            fit(model, train, epochs, rate, seed=self.seed, title=title)
            yield self._outcome(f"scratch-{kind}", ratio, model, test, epochs)

    def _outcome(self, stage: str, ratio: float, model: nn.Module, test: Digits, epochs: int) -> Outcome:
        size = slim(model, EXAMPLE, 0.0).report
        digit, parity, third = accuracies(model, test)
        return Outcome(
            self.network, self.seed, self.sr, stage, ratio, digit, parity, third,
            size.parameters[1], size.macs[1], epochs,
        )  # fmt: skip


@cache
def _baseline(network: str, seed: int, epochs: int) -> nn.Module:
    """A baseline, trained once: it is also the teacher of the other network."""
    model = fresh(network, seed)
    fit(model, load_digits()[0], epochs, NETWORKS[network].rate, seed=seed, title=f"{network} baseline")
    return model


def show(course: Course) -> None:
    """Run a course and print its table."""
    # no frame, and millions, so that it fits a narrow terminal
    table = Table("step", box=None)
    for title in ("ratio", "digit", "odd/even", "third", "parameters", "mult-adds", "epochs"):
        table.add_column(title, justify="right")
    for found in course.run():
        right = (f"{value:.1%}" for value in (found.digit, found.parity, found.third))
        size = (f"{found.parameters:,}", f"{found.macs / 1e6:.2f} M", str(found.epochs))
        table.add_row(found.stage, f"{found.ratio:g}" if found.ratio else "", *right, *size)
    print(f"{course.network}, sr {course.sr:g}, seed {course.seed}; accuracy on the test images")
    Console().print(table)


def main(argv: list[str] | None = None) -> None:
    """Run the course that the command line describes."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = Course(next(iter(NETWORKS)))
    parser.add_argument("--network", choices=list(NETWORKS), default=known.network, help="what is pruned")
    parser.add_argument("--ratios", type=_share, nargs="+", default=known.ratios, help="0.5 0.7")
    parser.add_argument("--sr", type=_weight, default=known.sr, help=f"weight of the penalty ({known.sr})")
    epochs = f"passes over the images in each training ({known.epochs})"
    parser.add_argument("--epochs", type=_count, default=known.epochs, help=epochs)
    epochs = f"the same in fine-tuning ({known.tune_epochs})"
    parser.add_argument("--tune-epochs", type=_count, default=known.tune_epochs, help=epochs)
    parser.add_argument("--seed", type=int, default=known.seed, help="of weights and order (0)")
    controls = "controls from random weights (e b); none: leave them out"
    parser.add_argument("--scratch", choices=["e", "b"], nargs="*", default=known.scratch, help=controls)
    parser.add_argument("--no-teacher", dest="teach", action="store_false", help="do not distil")
    parser.add_argument("--threads", type=_count, default=1, help="of torch; such small layers want one")
    args = vars(parser.parse_args(argv))
    torch.set_num_threads(args.pop("threads"))
    args |= {name: tuple(args[name]) for name in ("ratios", "scratch")}
    try:
        show(Course(**args))
    except ModuleNotFoundError as error:
        parser.error(str(error))


def _share(text: str) -> float:
    return _number(text, float, "a number between 0 and 1", lambda value: 0 < value < 1)


def _weight(text: str) -> float:
    return _number(text, float, "a number of at least 0", lambda value: 0 <= value < math.inf)


def _count(text: str) -> int:
    return _number(text, int, "a whole number of at least 1", lambda value: value >= 1)


def _number(text: str, kind: Callable[[str], T], wanted: str, is_one: Callable[[T], bool]) -> T:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_one(value):
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return value


if __name__ == "__main__":
    main()
