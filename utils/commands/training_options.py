"""What decides a training run: what was typed, else what the cfg's [net] says, else the measured default."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from utils.commands.arguments import (
    Parser,
    add_image_size,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
)
from utils.darknet.network import Network
from utils.data.augment import Augment
from utils.errors import CfgError
from utils.training.options import TrainingOptions

Number = TypeVar("Number", int, float)

DEFAULT_EPOCHS, DEFAULT_BATCH = 100, 8
PENALTY: float = 0.001
CANDIDATES: Literal[0, 1] = 1
# the rates in cfgs are meant for Darknet's loss, a sum over objects; this one is a mean
SGD_RATE_FACTOR = 50.0


@dataclass(frozen=True)
class Run:
    """All that decides a run's result; kept in last.pt to resume from.

    Attributes:
        cfg, data: files of the network and of the data set; cfg None where the first weights carried it.
        t_cfg, t_weights: files of the teacher; weights None without one, cfg None where they carry it.
        output: folder of the results.
        s: weight of the sparsity penalty, 0 for none.
        prune, classic: which gammas are candidates, see `gamma_penalty`.
        augment: whether training images are changed at random.
        is_demo: whether the files are the demo's.
        options: of the training loop.
    """

    cfg: Path | None
    data: Path
    t_cfg: Path | None
    t_weights: Path | None
    output: Path
    s: float
    prune: Literal[0, 1]
    classic: bool
    augment: bool
    is_demo: bool
    options: TrainingOptions

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Run":
        """Inverse of `to_mapping`."""
        paths = {
            key: None if mapping[key] is None else Path(mapping[key])
            for key in ("cfg", "data", "t_cfg", "t_weights", "output")
        }
        return cls(**{**mapping, **paths, "options": TrainingOptions.from_mapping(mapping["options"])})


def add_training_options(parser: Parser) -> None:
    """Add the options of `TrainingOptions`; None stands for not given."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, help="(default: the cfg's max_epochs, else 100)")
    group.add_argument("--batch-size", type=positive_int, help="images of a forward pass (default: 8)")
    group.add_argument("--accumulate", type=positive_int, help="forward passes of a step (default: 1)")
    add_image_size(group)
    group.add_argument("--optimizer", choices=["adamw", "sgd"], help="(default: adamw)")
    rate = "for 64 images a step, scaled to the real number (default: the cfg's, for sgd 50 times that)"
    group.add_argument("--learning-rate", "--lr", type=positive_float, metavar="RATE", help=rate)
    group.add_argument("--momentum", type=momentum, help="(default: the cfg's)")
    group.add_argument("--decay", type=fraction, help="weight decay of convolutions (default: the cfg's)")
    group.add_argument("--schedule", choices=["cosine", "steps"], help="of the rate (default: cosine)")
    group.add_argument("--warmup-epochs", type=non_negative_int, metavar="N", help="(default: 2)")
    group.add_argument(
        "--ema-epochs", type=non_negative_int, metavar="N", help="of the weight average, 0: none (default: 1)"
    )
    group.add_argument("--no-amp", action="store_true", help="no half precision")
    group.add_argument("--no-augment", action="store_true", help="train on the images as they are")


def add_sparsity_options(parser: Parser) -> None:
    """Add -sr and what refines it; None stands for not given, since without -sr it must not be."""
    sparse = parser.add_argument_group("sparse training")
    sparse.add_argument("-sr", "--sparsity", action="store_true", help="push the candidates' gammas to zero")
    weight = (
        "weight of the penalty; AdamW normalises its steps, so there s acts relative to the gradient's size "
        f"(default: {PENALTY})"
    )
    sparse.add_argument("--s", type=positive_float, help=weight)
    candidates = f"candidates: 0 no shortcuts, 1 all (default: {CANDIDATES})"
    sparse.add_argument("--prune", type=int, choices=[0, 1], help=candidates)
    sparse.add_argument("--classic", action="store_true", help="candidates of the published programs")


def momentum(text: str) -> float:
    """A number from 0 to below 1."""
    value = fraction(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def choose_options(
    args: argparse.Namespace, network: Network
) -> tuple[TrainingOptions, dict[str, tuple[object, str]]]:
    """The options of a run and, by name, their value and where it comes from.

    Raises:
        CfgError: a value in [net] is none that the option of that name could have.
    """
    rate = _net_value(network, "learning_rate", positive_float)
    if rate is not None and args.optimizer == "sgd":
        rate *= SGD_RATE_FACTOR
    size = (network.height, network.width)
    given = {field.name: getattr(args, field.name, None) for field in fields(TrainingOptions)}
    given |= {"image_size": args.img_size, "mixed_precision": False if args.no_amp else None}
    of_cfg: Mapping[str, Any] = {
        "epochs": _net_value(network, "max_epochs", positive_int),
        "learning_rate": rate,
        "momentum": _net_value(network, "momentum", momentum),
        "decay": _net_value(network, "decay", fraction),
        "image_size": size,
    }
    measured = TrainingOptions(DEFAULT_EPOCHS, DEFAULT_BATCH, 1, size)
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name in given:
        found = ((given[name], "given"), (of_cfg.get(name), "cfg"), (getattr(measured, name), "default"))
        values[name], origins[name] = next(pair for pair in found if pair[0] is not None)
    options = TrainingOptions(**values)
    return options, {name: (value, origins[name]) for name, value in options.to_mapping().items()}


def choose_augment(network: Network) -> Augment:
    """How far training images are changed: [net] hue, saturation, exposure and the last head's jitter.

    Darknet's jitter moves each side of the crop by up to this share; here it bounds zoom and aspect, and
    half of it the shift.
    """
    changes = {key: _net_number(network, key) for key in ("hue", "saturation", "exposure")}
    if network.heads:
        head = network[network.heads[-1]]
        jitter = _number(head.options, "jitter", network.place(network.heads[-1]))
        if jitter is not None:
            changes |= {"scale": 1 + jitter, "aspect": 1 + jitter, "translate": jitter / 2}
    return Augment(**{key: value for key, value in changes.items() if value is not None})


def _net_value(network: Network, key: str, kind: Callable[[str], Number]) -> Number | None:
    """The value of a key in [net] as the option of that meaning reads it."""
    try:
        return kind(network.options[key]) if key in network.options else None
    except argparse.ArgumentTypeError as error:
        raise CfgError(f"{network.source}: [net] {key}: {error}; correct it") from None


def _net_number(network: Network, key: str) -> float | None:
    return _number(network.options, key, f"{network.source}: [net]")


def _number(options: Mapping[str, str], key: str, place: str) -> float | None:
    try:
        return float(options[key]) if key in options else None
    except ValueError:
        raise CfgError(f"{place} {key}={options[key]} is not a number; correct it") from None
