"""Starting from weights of another class count: everything but the heads is theirs."""

import logging
from pathlib import Path

import pytest
import torch

from tests.darknet.references import old_names, random_images, randomised
from utils.darknet.checkpoint import save_weights
from utils.darknet.edit import with_classes
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.pretrained import Pretrained, load_pretrained
from utils.darknet.weights import WeightsHeader, fields
from utils.errors import WeightsError

CFG = Path(__file__).parents[1] / "cfgs/upsample.cfg"
HEADS = (3, 10)  # the convolutions in front of upsample.cfg's heads #4 and #11


@pytest.fixture
def model():
    return randomised(Darknet.from_cfg(CFG))


@pytest.mark.parametrize("kind", ["checkpoint", "old checkpoint", "weights"])
def test_pretrained_weights_of_another_class_count(kind, model, tmp_path, caplog):
    path = tmp_path / ("a.weights" if kind == "weights" else "a.pt")
    donor = randomised(Darknet(with_classes(model.network, 20)), seed=5)
    donor.header = WeightsHeader(seen=8)
    if kind == "old checkpoint":
        torch.save({"model": old_names(donor, "Conv2d", "BatchNorm2d")}, path)
    else:
        save_weights(donor, path)
    before = {index: model.layers[index].conv.weight.clone() for index in HEADS}
    with caplog.at_level(logging.INFO):
        result = load_pretrained(model, path)
    assert result == Pretrained(loaded=10, replaced_heads=(4, 11), classes=20)
    assert caplog.messages == [
        f"{path} has 20 classes, the network 2: its heads (#4, #11) are re-initialized"
    ]
    for index, (ours, theirs) in enumerate(zip(model.layers, donor.layers, strict=True)):
        if index in HEADS:
            assert torch.equal(ours.conv.weight, before[index])
        else:
            assert all(torch.equal(x, y) for x, y in zip(fields(ours), fields(theirs), strict=True))


def test_pretrained_weights_of_the_same_classes_load_whole(model, tmp_path, caplog):
    for path in (tmp_path / "a.pt", tmp_path / "a.weights"):
        save_weights(model, path)
        again = Darknet(model.network)
        with caplog.at_level(logging.INFO):
            assert load_pretrained(again, path) == Pretrained(loaded=12)
        assert torch.equal(again.layers[10].conv.bias, model.layers[10].conv.bias)
    assert caplog.messages == []


def test_an_unusual_class_count_must_be_told(model, tmp_path):
    donor = Darknet(with_classes(model.network, 7))
    save_weights(donor, tmp_path / "a.weights")
    with pytest.raises(WeightsError, match="floats are left over"):
        load_pretrained(model, tmp_path / "a.weights")
    assert load_pretrained(model, tmp_path / "a.weights", weights_classes=7).classes == 7
    assert torch.equal(model.layers[0].conv.weight, donor.layers[0].conv.weight)


def test_the_real_coco_weights_start_a_three_class_network(shared):
    network = with_classes(Network.from_cfg(shared / "weights/yolov3-tiny/yolov3-tiny-mask123.cfg"), 3)
    model = Darknet(network)
    result = load_pretrained(model, shared / "weights/yolov3-tiny/yolov3-tiny.weights")
    assert result == Pretrained(loaded=22, replaced_heads=(16, 23), classes=80)
    assert model.network.channels(15) == 24
    assert [tuple(head.shape) for head in model.eval()(random_images(model, (64, 64)))] == [
        (1, 3, 2, 2, 8),
        (1, 3, 4, 4, 8),
    ]
