"""A broken cfg is read as far as it goes; weights that do not fit are told apart."""

import numpy as np
import pytest
import torch

from utils.darknet.checks import check_cfg, check_heads, check_weights
from utils.darknet.edit import with_classes
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.weights import WeightsHeader, write_weights

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
HEAD = (
    "[convolutional]\nfilters={}\nsize=1\nactivation=linear\n[yolo]\nmask=0,1\nanchors=4,5,8,9\nclasses=2\n"
)
FITTING = NET + CONV + HEAD.format(14)


def cfg(folder, text):
    path = folder / "x.cfg"
    path.write_text(text)
    return path


def test_a_sound_cfg_has_no_findings(tmp_path):
    check = check_cfg(cfg(tmp_path, FITTING))
    assert (check.findings, check.corrected) == ((), {})
    assert check.network is not None


def test_wrong_filters_before_heads_are_corrected_and_told(tmp_path):
    text = NET + CONV + HEAD.format(18) + "[route]\nlayers=0\n" + HEAD.format(255)
    check = check_cfg(cfg(tmp_path, text))
    assert check.corrected == {1: 18, 4: 255}
    assert check.network is not None
    assert [check.network.channels(index) for index in (1, 4)] == [14, 14]
    assert [finding.place.split(": ")[0] for finding in check.findings] == [
        f"{tmp_path}/x.cfg:12",
        f"{tmp_path}/x.cfg:22",
    ]
    assert all("needs 14 = 2 anchors x (5 + 2 classes)" in finding.fact for finding in check.findings)


def test_every_section_that_cannot_be_read_is_told(tmp_path):
    text = NET + CONV.replace("leaky", "silu") + "[upsampel]\n[route]\nlayers=-9\n" + HEAD.format(14)
    check = check_cfg(cfg(tmp_path, text))
    assert check.network is None
    assert [finding.place.split(":")[-2] for finding in check.findings] == ["10", "11", "13"]
    assert {finding.severity for finding in check.findings} == {"error"}


@pytest.mark.parametrize("text", ["", "[convolutional]\n", "[net]\n", "[net\n", NET.replace("32", "0")])
def test_what_is_no_network_at_all_is_one_finding(tmp_path, text):
    check = check_cfg(cfg(tmp_path, text))
    assert check.network is None
    assert len(check.findings) == 1


def test_a_missing_cfg_is_a_finding(tmp_path):
    (finding,) = check_cfg(tmp_path / "no.cfg").findings
    assert (finding.severity, finding.place) == ("error", str(tmp_path / "no.cfg"))


def test_heads_must_be_made_for_the_classes_of_the_data():
    network = Network.from_text(FITTING)
    assert check_heads(network) == check_heads(network, 2) == ()
    (finding,) = check_heads(network, 3)
    assert finding.fact == "heads #2 are made for 2 classes, the data set has 3"


def test_a_network_without_heads_detects_nothing():
    (finding,) = check_heads(Network.from_text(NET + CONV))
    assert finding.severity == "error"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Darknet(Network.from_text(FITTING, "x.cfg"))


def facts(model, path):
    return [(finding.severity, finding.fact) for finding in check_weights(model.network, path)]


def test_fitting_weights_are_said_to_fit(model, tmp_path):
    write_weights(tmp_path / "x.weights", model, WeightsHeader(seen=640))
    ((severity, fact),) = facts(model, tmp_path / "x.weights")
    assert severity == "note"
    assert "fits x.cfg: 374 floats, 640 images seen" in fact


@pytest.mark.parametrize(
    "floats, severity, part",
    [
        (248, "warning", "ends exactly after section #0"),
        (200, "error", "ends inside"),
        (375, "error", "1 floats are left over"),
        (0, "error", "has a header and no weights"),
    ],
)
def test_weights_of_another_length_are_told_apart(model, tmp_path, floats, severity, part):
    path = tmp_path / "x.weights"
    write_weights(path, model, WeightsHeader())
    data = path.read_bytes() + np.zeros(8, "<f4").tobytes()
    path.write_bytes(data[: 20 + 4 * floats])
    ((found, fact),) = facts(model, path)
    assert found == severity
    assert part in fact


def test_weights_of_other_classes_are_fit_to_train_from(model, tmp_path):
    other = Darknet(with_classes(model.network, 80))
    write_weights(tmp_path / "x.weights", other, WeightsHeader())
    ((severity, fact),) = facts(model, tmp_path / "x.weights")
    assert severity == "warning"
    assert "made for 80 classes" in fact


@pytest.mark.parametrize("field, value", [("weight", float("nan")), ("running_var", -1.0)])
def test_numbers_that_cannot_be_are_found(model, tmp_path, field, value):
    model.state_dict()[f"layers.0.norm.{field}"][3] = value
    write_weights(tmp_path / "x.weights", model, WeightsHeader())
    (_, (severity, fact)) = facts(model, tmp_path / "x.weights")
    assert severity == "error"
    assert f"1 of the 8 values of norm.{field}" in fact
