"""What a cfg says of training becomes the default of the option of that meaning."""

import re

import pytest

from tests.detectors import mini_cfg
from utils.commands.train.command import train_parser
from utils.commands.train.options import TrainOptions
from utils.commands.train.settings import Choice, augment_of, cfg_defaults, choose
from utils.darknet.network import Network
from utils.data.augment import Augment
from utils.errors import CfgError, ToolkitError
from utils.options import from_arguments
from utils.training.losses import LossWeights
from utils.training.options import TrainingOptions


def network(net: str = "", yolo: str = "") -> Network:
    lines = (text.replace("; ", "\n") for text in (net, yolo))
    return Network.from_text(mini_cfg(net=next(lines), head=next(lines), classes=3), "x.cfg")


def chosen(net: str, yolo: str, *words: str) -> Choice:
    given = from_arguments(TrainOptions, train_parser().parse_args(list(words)))
    return choose(given, network(net, yolo))


def options(net: str = "", yolo: str = "", *words: str) -> TrainingOptions:
    return chosen(net, yolo, *words).options


def test_steps_are_shares_of_max_batches() -> None:
    found = options("policy=steps; max_batches=1000; steps=400,450; scales=.1,.5")
    assert (found.schedule, found.steps, found.scales) == ("steps", (0.4, 0.45), (0.1, 0.5))


def test_a_policy_of_cycles_and_one_that_is_not_known() -> None:
    found = options("policy=sgdr; max_batches=1000; sgdr_cycle=100; sgdr_mult=3")
    assert (found.schedule, found.cycle, found.cycle_growth) == ("sgdr", 0.1, 3.0)
    assert options("policy=poly").schedule == TrainingOptions.schedule


@pytest.mark.parametrize(
    ("net", "batch", "accumulate"),
    [
        ("batch=64; subdivisions=16", 4, 16),
        ("batch=1; subdivisions=1", 8, 1),
        ("batch=64", 64, 1),
        ("", 8, 1),
    ],
)
def test_batch_and_subdivisions(net: str, batch: int, accumulate: int) -> None:
    found = options(net)
    assert (found.batch_size, found.accumulate) == (batch, accumulate)


def test_a_long_burn_in_is_taken_and_a_short_one_is_not() -> None:
    net = "max_batches=1000; burn_in={}; max_epochs=100"
    assert options(net.format(50)).burn_in == 5
    assert options(net.format(1)).burn_in == TrainingOptions.burn_in
    assert options("power=4").burn_in_power == 4


def test_flags_override_the_cfg_and_the_cfg_the_default() -> None:
    net = "momentum=.7; learning_rate=0.02; mosaic=1"
    found = options(net, "random=1; jitter=.2", "--momentum", "0.5", "--no-multi-scale", "--mosaic", "0.25")
    assert (found.momentum, found.learning_rate, found.multi_scale) == (0.5, 0.02, False)
    assert found.augment is not None
    assert (found.augment.mosaic, found.augment.scale) == (0.25, 1.2)
    assert options(net, "random=1").multi_scale
    assert options().momentum == TrainingOptions.momentum


def test_a_rate_for_a_sum_is_scaled_for_means_but_not_for_darknets_loss() -> None:
    assert cfg_defaults(network("learning_rate=0.001"), "sgd")["learning_rate"] == 0.008
    assert cfg_defaults(network("learning_rate=0.001"), "sgd", "darknet")["learning_rate"] == 0.001


def test_auto_strength_starts_gently() -> None:
    found = options("", "", "-sr", "--s", "auto", "--target-sparsity", "0.6", "--s-schedule", "global+local")
    assert (found.s, found.s_auto, found.target_sparsity) == (0.001, True, 0.6)
    assert found.s_schedule == ("global", "local")
    assert options().s == 0


def test_a_word_where_a_number_belongs_is_told_by_place() -> None:
    with pytest.raises(CfgError, match=r"x.cfg: \[net\] mosaic=yes: not a number; correct it"):
        augment_of(network("mosaic=yes"))
    with pytest.raises(CfgError, match=r"\[yolo\] #1: random=yes: not a number"):
        cfg_defaults(network("", "random=yes"))


def test_every_hyper_parameter_has_a_unit_and_survives_a_checkpoint() -> None:
    found = options("", "", "-sr", "--mosaic", "0.5")
    assert TrainingOptions.from_mapping(found.to_mapping()) == found
    for field in TrainingOptions.__dataclass_fields__.values():
        assert field.metadata["help"], field.name
        assert field.metadata["source"], field.name
    for field in Augment.__dataclass_fields__.values():
        assert field.metadata["help"], field.name
        assert field.metadata["source"], field.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "steps", "--steps", ".5", "--scales", ".1,.1"], "--steps: 1 values, but 2 --scales"),
        (["--cycle", "0.5"], "--cycle: no effect with --schedule cosine"),
        (["--loss", "darknet", "--balance", "0.5", "--box-kind", "iou"], "--balance, --box_kind: no effect"),
        (["--no-augment", "--mosaic", "0.5"], "--mosaic: no effect with --no-augment"),
    ],
)
def test_options_that_contradict_or_change_nothing_are_told(words: list[str], message: str) -> None:
    with pytest.raises(ToolkitError, match=re.escape(message)):
        options("", "", *words)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("saturation=0", "[net] saturation"),
        ("exposure=-1", "[net] exposure"),
        ("hue=nan", "[net] hue"),
        ("policy=steps; max_batches=10; steps=4,5,6; scales=.1,.1", "3 steps and 2 scales"),
        ("policy=sgdr; max_batches=10; sgdr_cycle=2; sgdr_mult=.5", "sgdr_mult"),
    ],
)
def test_values_of_a_cfg_are_as_strictly_read_as_options(net: str, message: str) -> None:
    with pytest.raises(CfgError, match=re.escape(message)):
        options(net)


def test_a_cfg_may_bring_its_own_weights_of_the_loss() -> None:
    net = "objectness_weight=.2; neighbours=0"
    assert (options(net).objectness_weight, options(net).neighbours) == (0.2, 0.0)
    assert options(net, "", "--neighbours", "0.4").neighbours == 0.4
    assert options().losses == LossWeights()
    with pytest.raises(CfgError, match=r"\[net\] balance: .* from 0 to 1"):
        options("balance=2")


def test_a_cfg_may_forbid_mirroring() -> None:
    assert augment_of(network("flip=0"))["flip"] == 0
    assert "flip" not in augment_of(network())


def test_the_table_says_where_image_changes_come_from() -> None:
    def origin(net: str, *words: str) -> str:
        return chosen(net, "", *words).origins["augment"]

    assert origin("") == "default"
    assert origin("hue=.1") == "cfg, default"
    assert origin("hue=.1", "--flip", "0") == "given, cfg, default"
