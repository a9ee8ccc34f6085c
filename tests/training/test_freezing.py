"""What a cfg freezes stays bitwise the same, whatever else pulls at it."""

from dataclasses import replace

import pytest
import torch

from tests.training.tiny import OPTIONS, FakeBatch, ignore
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.errors import ToolkitError
from utils.frontends.darknet.subject import gamma_penalty
from utils.training.optimizer import Freezing
from utils.training.trainer import Trainer

CFG = """
[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
{}
[convolutional]
filters=14
size=1
activation=linear
{}
[yolo]
mask=0,1
anchors=10,10, 20,20
classes=2
num=2
"""


def batches(count: int) -> list[FakeBatch]:
    generator = torch.Generator().manual_seed(5)
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.5, 0.6], [1, 0, 0.7, 0.2, 0.9, 0.9]])
    return [FakeBatch(torch.rand(2, 3, 32, 32, generator=generator), targets) for _ in range(count)]


def learned(option: str, steps: int, first: int = 0) -> dict[str, bool]:
    """Which parameters and buffers have changed after so many steps with decay, momentum and penalty."""
    torch.manual_seed(0)
    model = Darknet(Network.from_text(CFG.format(option, "")))
    options = replace(OPTIONS, momentum=0.9, decay=0.01)
    penalty = gamma_penalty(model, 0.01, prune=1)
    trainer = Trainer(
        model, model.head_specs, options, steps, penalty, freezing=Freezing(model, first)
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train_epoch(batches(steps), ignore)
    return {name: not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()}


def test_without_options_everything_learns():
    assert all(learned("", 1).values())


@pytest.mark.parametrize("option", ["stopbackward=1", "train_only_bn=1", "stopbackward=3"])
def test_frozen_sections_do_not_move(option):
    for name, moved in learned(option, 3).items():
        counted = "running" in name or "tracked" in name  # Darknet's statistics go on
        assert moved == (name.startswith("layers.2.") or counted), name


def test_the_first_sections_stay_as_they_are_statistics_too():
    for name, moved in learned("", 2, first=1).items():
        assert moved != name.startswith("layers.0."), name


def test_a_section_learns_from_its_step_on():
    assert all(learned("stopbackward=3", 4).values())
    assert not learned("dont_update=3", 4)["layers.1.conv.weight"]
    assert learned("dont_update=3", 5)["layers.1.conv.weight"]


def test_a_network_that_cannot_learn_is_refused():
    model = Darknet(Network.from_text(CFG.format("", "stopbackward=1"), "a.cfg"))
    with pytest.raises(ToolkitError, match=r"a\.cfg: all sections are frozen"):
        Freezing(model)
