"""How fast training is: images per second of whole steps, and where a step's time goes.

    python benchmarks/train_throughput.py --cfg cfg/my.cfg --data data/my.data --batch-size 8 --threads 2

Loading and augmentation are part of each step; medians over the epochs after the first. `--plain` trains in
float32, in contiguous memory and with the C library's own way of freeing memory: what a program without this
project's measures does, for comparison on the same machine in the same hour.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from utils.darknet.model import Darknet
from utils.data.augment import Augment
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import Batch, make_loader
from utils.data.sampling import Sampling
from utils.frontends.darknet.subject import gamma_penalty
from utils.training.loop import keep_freed_memory
from utils.training.options import TrainingOptions
from utils.training.trainer import Trainer

PARTS = ("loader", "forward", "loss", "backward", "optimizer")


class Watch:
    """Collects the seconds of each part of each step."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Note the time since the last lap as that of `part`."""
        now = time.perf_counter()
        self.times[part].append(now - self._last)
        self._last = now


def watched(loader: Iterator[Batch], watch: Watch) -> Iterator[Batch]:
    """The same batches; the wait for each is noted."""
    watch._last = time.perf_counter()
    for batch in loader:
        watch.lap("loader")
        yield batch


def instrument(trainer: Trainer[Darknet], watch: Watch) -> None:
    """Note the parts of a step; a forward pass ends where its heads are there, a loss where its sum is."""
    forward, objective, step = trainer._forward, trainer.objective, trainer._optimizer_step

    def timed_forward(images: Tensor) -> list[Tensor]:
        heads = forward(images)
        watch.lap("forward")
        return heads

    class TimedObjective:
        teacher, features, specs = objective.teacher, objective.features, objective.specs

        def __call__(self, *args: object) -> tuple[Tensor, Tensor]:
            found = objective(*args)  # type: ignore[arg-type]
            watch.lap("loss")
            return found

    def timed_step() -> None:
        watch.lap("backward")
        step()
        watch.lap("optimizer")

    trainer._forward = timed_forward  # type: ignore[method-assign]
    trainer.objective = TimedObjective()  # type: ignore[assignment]
    trainer._optimizer_step = timed_step  # type: ignore[method-assign]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Medians in milliseconds of a step and its parts, and images per second."""
    torch.set_num_threads(args.threads)
    if not args.plain:
        keep_freed_memory()
    torch.manual_seed(0)
    model = Darknet.from_cfg(args.cfg)
    size = (args.img_size, args.img_size)
    data = read_data_file(args.data)
    dataset = DetectionDataset.from_split(data, "train", size, augment=Augment(), cache="ram")
    sampling = Sampling(shuffle=True, drop_last=True)
    loader = make_loader(dataset, args.batch_size, sampling, workers=args.workers)
    precision = "fp32" if args.plain else "auto"
    options = TrainingOptions(args.epochs, args.batch_size, 1, size, precision=precision, s=0.001)  # type: ignore[arg-type]
    penalty = gamma_penalty(model, options.s, 1)
    trainer = Trainer(model, model.head_specs, options, len(loader), penalty)
    if args.plain:
        trainer.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    watch = Watch()
    instrument(trainer, watch)
    steps = []
    for epoch in range(args.epochs):
        penalty.start_epoch(epoch / args.epochs)
        last = time.perf_counter()
        for batch in watched(iter(loader), watch):
            trainer.train_epoch([batch], lambda *_: None)
            now = time.perf_counter()
            if epoch:
                steps.append(now - last)
            last = now
    first = len(loader)
    found = {part: 1000 * float(np.median(times[first:])) for part, times in watch.times.items()}
    step = float(np.median(steps))
    return {**found, "step": 1000 * step, "images_per_second": args.batch_size / step}


def main() -> None:
    """Measure and print; append a line to --csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--img-size", type=int, default=416)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="without this project's measures")
    parser.add_argument("--csv", type=Path, help="file to append the result to")
    args = parser.parse_args()
    found = measure(args)
    for part in PARTS:
        print(f"{part:10} {found[part]:7.1f} ms  {found[part] / found['step']:6.1%} of a step")
    print(f"{'step':10} {found['step']:7.1f} ms  {found['images_per_second']:.1f} images/s")
    if args.csv:
        row = {"plain": args.plain, "threads": args.threads, "workers": args.workers, **found}
        exists = args.csv.exists()
        with args.csv.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if not exists:
                writer.writeheader()
            writer.writerow(
                {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            )


if __name__ == "__main__":
    main()
