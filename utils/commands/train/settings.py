"""Settings of a run: each hyper-parameter as given, else from the cfg, else its default.

Lengths in [net] are iterations of a training of `max_batches`; here they are fractions of it, so that they
apply to shorter trainings too.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from ...darknet.model import Darknet
from ...darknet.network import Network
from ...data.augment import Augment
from ...errors import CfgError, ToolkitError
from ...options import POSITIVE_INT, given
from ...pruning.costs import count_parameters
from ...training.options import TrainingOptions
from ..output import multiply_adds, read_report
from .options import PENALTY, TrainOptions

Value = TypeVar("Value")
logger = logging.getLogger(__name__)

AUTO_START: float = (
    0.001  # initial s of auto; three times as much damaged pretrained networks in the first epochs
)
# learning rates in cfgs are for Darknet's loss, a sum over objects; the modern loss is a mean
SGD_RATE_FACTOR = 8.0
# Darknet leaves half of the images unchanged (load_data_detection, data.c).
MIXED = 0.5
# batch=1 is written in cfgs that are prepared for testing
_TESTING = 1
# of the modern loss, which Darknet does not have: a cfg may set them, other programs ignore these keys
_LOSS = (
    "box_weight", "objectness_weight", "classes_weight", "iou_threshold", "neighbours", "balance",
    "iou_objectness",
)  # fmt: skip
# the policy of Darknet -> our schedule; others become the default
_POLICIES = {"steps": "steps", "sgdr": "sgdr", "constant": "constant"}
# options that have an effect with one schedule only, or with the modern loss only
_SCHEDULES: Mapping[str, str] = MappingProxyType(
    {"steps": "steps", "scales": "steps", "cycle": "sgdr", "cycle_growth": "sgdr"}
)
# iou_threshold also defines the positives of distillation
MODERN = {*_LOSS, "box_kind", "label_smoothing"} - {"iou_threshold"}
_IMAGES = [each.name for each in fields(Augment)]


@dataclass(frozen=True)
class RunSettings:
    """All that decides a run's result; kept in last.pt to resume from.

    Attributes:
        cfg, data: files of the network and of the data set; cfg None where the first weights carried it.
        t_cfg, t_weights: files of the teacher; weights None without one, cfg None where they carry it.
        report: of the pruning run that made the student, for feature distillation; None without.
        output: folder of the results.
        prune, classic: which gammas are candidates, see `gamma_penalty`.
        is_demo: whether the files are the demo's.
        options: of the training loop.
        threads: of torch on a CPU; only with as many is a resumed run bitwise the same. None: not known.
        scratch: kind of the control experiment, see `choose_control`; None for another training.
    """

    cfg: Path | None
    data: Path
    t_cfg: Path | None
    t_weights: Path | None
    report: Path | None
    output: Path
    prune: Literal[0, 1]
    classic: bool
    is_demo: bool
    options: TrainingOptions
    threads: int | None = None
    scratch: Literal["e", "b"] | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "RunSettings":
        """Inverse of `to_mapping`."""
        paths = {
            key: None if mapping[key] is None else Path(mapping[key])
            for key in ("cfg", "data", "t_cfg", "t_weights", "report", "output")
        }
        return cls(**{**mapping, **paths, "options": TrainingOptions.from_mapping(mapping["options"])})


@dataclass(frozen=True)
class Choice:
    """The hyper-parameters of a run.

    Attributes:
        options: for the training loop.
        origins: name of each of them -> where its value comes from: "given", "cfg", "default", ...
    """

    options: TrainingOptions
    origins: Mapping[str, str]


def choose(options: TrainOptions, network: Network) -> Choice:
    """Choose each hyper-parameter.

    Raises:
        CfgError: a value in the cfg is invalid or out of range.
        ToolkitError: options contradict each other, or one that was given would have no effect.
    """
    typed = _given(options)
    of_cfg = cfg_defaults(network, options.optimizer, options.loss, options.epochs)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in fields(TrainingOptions):
        name = field.name
        found = ((typed.get(name), "given"), (of_cfg.get(name), "cfg"), (field.default, "default"))
        values[name], origins[name] = next((pair for pair in found if pair[0] is not None), (None, "given"))
    if not options.no_augment:
        augment = {name: typed[name] for name in _IMAGES if name in typed}
        found_in_cfg = augment_of(network)
        values["augment"] = Augment(**{**found_in_cfg, **augment})
        sources = {"given": bool(augment), "cfg": bool(found_in_cfg), "default": True}
        origins["augment"] = ", ".join(name for name, has in sources.items() if has)
    chosen = TrainingOptions(**values)
    _check(options, chosen)
    return Choice(chosen, origins)


def _given(options: TrainOptions) -> dict[str, Any]:
    """The options that were given, by the names of `TrainingOptions` and `Augment`."""
    found = given(options)
    if options.no_amp:
        found.setdefault("precision", "fp32")
    if options.img_size:
        found["image_size"] = options.img_size
    strength = PENALTY if options.s is None else options.s
    found["s"] = 0.0 if not options.sparsity else AUTO_START if strength == "auto" else strength
    found["s_auto"] = options.s == "auto"
    return found


def _check(options: TrainOptions, chosen: TrainingOptions) -> None:
    """Raise ToolkitError for contradictions, and for what was given and would have no effect."""
    if len(chosen.steps) != len(chosen.scales):
        fact = f"{len(chosen.steps)} values, but {len(chosen.scales)} --scales"
        raise ToolkitError("--steps", fact, "give as many of one as of the other")
    idle = {f"--schedule {chosen.schedule}": other_schedules(chosen.schedule)}
    if chosen.loss == "darknet":
        idle["--loss darknet, which reads the cfg"] = MODERN
    if chosen.augment is None:
        idle["--no-augment"] = set(_IMAGES)
    for reason, names in idle.items():
        found = options.given_of(names)
        if found:
            raise ToolkitError(found, f"no effect with {reason}", "leave it out")


def other_schedules(schedule: str) -> set[str]:
    """Options that have an effect only with another schedule than this."""
    return {name for name, kind in _SCHEDULES.items() if kind != schedule}


def choose_control(options: TrainOptions, model: Darknet, report: Path | None) -> Choice:
    """As `choose`, with the epochs that --scratch asks for, and with them what is counted in epochs.

    The control of pruning is the pruned network trained from random weights (arXiv 1810.05270), for the same
    epochs (e) or the same multiply-adds (b). If it reaches the fine-tuned one, what pruning found is the
    architecture, not the weights.

    Args:
        options: of the command.
        model: to train.
        report: of the pruning run.

    Raises:
        ToolkitError: as for `choose`; or the report is missing, or is of another network.
    """
    choice = choose(options, model.network)
    if options.scratch != "b":
        return choice
    if report is None:
        raise ToolkitError(
            "--scratch b", "there is no report of a pruning run", "give --report, the run's .json"
        )
    work = PruningWork.of(read_report(report), report)
    if work.parameters != count_parameters(model):
        fact = f"is of a network of {work.parameters:,} parameters"
        raise ToolkitError(
            report, f"{fact}, the cfg's has {count_parameters(model):,}", "give the report of this one"
        )
    longer = choose(replace(options, epochs=work.epochs(choice.options.epochs)), model.network)
    shares = f"{multiply_adds(work.before)} / {multiply_adds(work.after)}"
    origin = f"scratch b: {choice.options.epochs} x {shares}"
    return Choice(longer.options, {**longer.origins, "epochs": origin})


@dataclass(frozen=True)
class PruningWork:
    """Multiply-adds per image before and after a pruning run, and the parameters left."""

    before: int
    after: int
    parameters: int

    @classmethod
    def of(cls, report: Mapping[str, Any], source: Path) -> "PruningWork":
        """From the JSON of a pruning run; ToolkitError where it has no such figures."""
        try:
            before, after = report["before"]["macs"], report["after"]["macs"]
            found = cls(int(before), int(after), int(report["after"]["parameters"]))
        except (KeyError, TypeError, ValueError) as error:
            fact = f"has no multiply-adds before and after ({error!r})"
            raise ToolkitError(source, fact, "give the .json that a pruning run wrote") from error
        if not 0 < found.after <= found.before:
            fact = f"{found.before:,} multiply-adds before, {found.after:,} after"
            raise ToolkitError(source, fact, "give the .json that a pruning run wrote")
        return found

    def epochs(self, whole: int) -> int:
        """Epochs that cost what `whole` epochs of the unpruned network do.

        >>> PruningWork(300, 120, 1).epochs(10)
        25
        """
        return round(whole * self.before / self.after)


def cfg_defaults(
    network: Network, optimizer: str | None = None, loss: str | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Names of `TrainingOptions` -> values, None where the cfg says nothing.

    Args:
        network: whose [net] section and last head are read.
        optimizer, loss, epochs: as given, since they decide what others mean; None for the default.

    Raises:
        CfgError: a value is invalid, or out of the option's range.
    """
    rate = _net(network, "learning_rate")
    if rate is not None and optimizer == "sgd" and loss != "darknet":
        rate *= SGD_RATE_FACTOR
    defaults: dict[str, Any] = {
        "epochs": _net(network, "max_epochs", _reader("epochs")),
        "learning_rate": rate,
        "momentum": _net(network, "momentum"),
        "decay": _net(network, "decay"),
        "image_size": (network.height, network.width),
        "burn_in_power": _net(network, "power", _reader("burn_in_power")),
        "multi_scale": _of_last_head(network, "random", lambda text: bool(float(text))),
        "label_smoothing": _of_last_head(network, "label_smooth_eps", _reader("label_smoothing")),
    }
    defaults |= {key: _net(network, key) for key in _LOSS}
    length = epochs or defaults["epochs"] or TrainingOptions.epochs
    return {**defaults, **_batch(network), **_course(network), **_burn_in(network, length)}


def augment_of(network: Network) -> dict[str, float]:
    """Fields of `Augment` -> values: of [net] and the last head's jitter.

    Darknet's jitter moves each side of the crop by up to this fraction; here it bounds zoom and aspect, and
    half of it the shift.
    """
    changes = {key: _net(network, key) for key in ("hue", "saturation", "exposure")}
    for key in ("flip", "mosaic", "mixup"):
        changes[key] = _net(network, key, lambda text: MIXED * (float(text) > 0))
    jitter = _of_last_head(network, "jitter", _reader("translate"))
    if jitter is not None:
        changes |= {"scale": 1 + jitter, "aspect": 1 + jitter, "translate": jitter / 2}
    return {key: value for key, value in changes.items() if value is not None}


def _batch(network: Network) -> dict[str, int]:
    batch = _net(network, "batch", POSITIVE_INT) or _TESTING
    parts = _net(network, "subdivisions", POSITIVE_INT) or 1
    if batch <= _TESTING or batch < parts:
        return {}
    return {"batch_size": batch // parts, "accumulate": parts}


def _course(network: Network) -> dict[str, Any]:
    """The schedule, with lengths as fractions of max_batches."""
    total = _net(network, "max_batches", POSITIVE_INT)
    policy = network.options.get("policy", "")
    kind = _POLICIES.get(policy)
    if policy and kind is None:
        message = "%s: [net] policy=%s is unsupported; using a cosine schedule instead"
        logger.warning(message, network.source, policy)
    if kind == "sgdr":
        cycle = _net(network, "sgdr_cycle", POSITIVE_INT)
        growth = _net(network, "sgdr_mult", _reader("cycle_growth"))
        share = min(1.0, cycle / total) if cycle and total else None
        return {"schedule": kind, "cycle": share, "cycle_growth": growth}
    if kind != "steps":
        return {"schedule": kind}
    steps = _net(network, "steps", _numbers) or ()
    scales = _net(network, "scales", _numbers) or ()
    if len(steps) != len(scales):
        fact = f"[net] has {len(steps)} steps and {len(scales)} scales"
        raise CfgError(network.source, fact, "give as many of one as of the other")
    if not total or not steps:
        return {}
    shares = tuple(min(1.0, max(0.0, step / total)) for step in steps)
    return {"schedule": kind, "steps": shares, "scales": scales}


def _burn_in(network: Network, epochs: int) -> dict[str, float]:
    """The cfg's burn-in if it is longer than the measured one: shorter ones have ruined trainings."""
    total, length = (_net(network, key, POSITIVE_INT) for key in ("max_batches", "burn_in"))
    if not total or not length:
        return {}
    wanted = length / total * epochs
    return {"burn_in": wanted} if wanted > TrainingOptions.burn_in else {}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())


def _reader(name: str) -> Callable[[str], Any]:
    """The reader of the option of this name."""
    known = {each.name: each for kind in (TrainingOptions, Augment) for each in fields(kind)}
    reader: Callable[[str], Any] = known[name].metadata["reader"]
    return reader


def _net(network: Network, key: str, reader: Callable[[str], Any] | None = None) -> Any:
    """The value of a key of [net], read as the option of the same name unless another reader is given."""
    return _read(network.options, key, reader or _reader(key), f"{network.source}: [net] {key}")


def _of_last_head(network: Network, key: str, reader: Callable[[str], Any]) -> Any:
    if not network.heads:
        return None
    head = network.heads[-1]
    return _read(network[head].options, key, reader, f"{network.place(head)}: {key}")


def _read(options: Mapping[str, str], key: str, reader: Callable[[str], Value], place: str) -> Value | None:
    """The value of a key; None where it is missing."""
    if key not in options:
        return None
    try:
        return reader(options[key])
    except argparse.ArgumentTypeError as error:
        raise CfgError(place, str(error), "correct it") from None
    except ValueError:
        raise CfgError(f"{place}={options[key]}", "not a number", "correct it") from None
