"""Cfgs made for one's own data are valid networks with just what was asked for."""

import numpy as np
import pytest

import new_cfg as script
from utils.darknet.anchors import slots
from utils.darknet.network import Network
from utils.data.checks import check_data
from utils.data.shapes import make_shapes
from utils.detection.anchors import anchor_fit
from utils.errors import ToolkitError

STOCK = ("yolov3", "yolov3-tiny", "yolov3-spp", "yolov4", "yolov4-tiny")
ZOO = ("yolov2", "yolov2-tiny-voc", "Gaussian_yolov3_BDD", "enet-coco", "csresnext50-panet-spp", "yolov4-csp")


def made(source, output, *words) -> Network:
    script.main(["--from", str(source), "--output", str(output), *words])
    return Network.from_cfg(output)


def assert_made_for(network: Network, classes: int) -> None:
    for index in network.heads:
        head = network[index]
        assert head.classes == classes
        assert network.input_channels(index) == len(head.mask) * (head.box_values + 1 + classes)


@pytest.mark.parametrize("name", STOCK)
def test_stock_cfgs_become_cfgs_for_other_classes(root, tmp_path, name):
    network = made(root / f"cfg/{name}.cfg", tmp_path / "my.cfg", "--classes", "3")
    assert_made_for(network, 3)
    assert len(network) == len(Network.from_cfg(root / f"cfg/{name}.cfg"))


@pytest.mark.parametrize("name", ZOO)
def test_other_heads_and_groups_become_so_too_at_another_width_and_size(shared, tmp_path, name):
    words = ("--classes", "2", "--width", "0.5", "--img_size", "320", "640")
    network = made(shared / f"zoo/{name}.cfg", tmp_path / "my.cfg", *words)
    assert_made_for(network, 2)
    assert (network.height, network.width) == (320, 640)


@pytest.fixture
def shapes(tmp_path):
    return make_shapes(tmp_path / "data", sizes={"train": 30, "valid": 4, "test": 4})


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3"])
def test_anchors_of_the_data_fit_no_worse_and_go_by_area(root, tmp_path, shapes, name):
    source = root / f"cfg/{name}.cfg"
    network = made(source, tmp_path / "my.cfg", "--data", str(shapes), "--anchors", "auto")
    assert_made_for(network, 4)
    anchors = np.array(slots(network))
    assert (np.diff(anchors.prod(1)) >= 0).all()
    sizes = check_data(shapes).splits[0].object_sizes((network.height, network.width), letterbox=False)
    before, after = (anchor_fit(sizes, np.array(slots(n))) for n in (Network.from_cfg(source), network))
    assert after.mean_iou > before.mean_iou + 0.1
    assert all(new >= old for new, old in zip(after.recall, before.recall, strict=True))


def test_the_table_says_what_is_different_and_what_to_do_next(root, tmp_path, capsys):
    made(root / "cfg/yolov3-tiny.cfg", tmp_path / "my.cfg", "--classes", "3")
    out = capsys.readouterr().out
    assert "classes, [yolo] #16" in out
    assert "anchors" not in out
    assert out.splitlines()[-1] == f"next: python doctor.py --cfg {tmp_path / 'my.cfg'}"


def test_an_unchanged_network_has_no_table(root, tmp_path, capsys):
    made(root / "cfg/yolov3-tiny.cfg", tmp_path / "my.cfg")
    out = capsys.readouterr().out
    assert "Differences" not in out
    assert "unchanged" in out


@pytest.mark.parametrize(
    "words, match",
    [
        (["--anchors", "auto"], "add --data"),
        (["--img_size", "100"], "multiples of 32"),
        (["--classes", "3", "--data", "DATA"], "make them agree"),
    ],
    ids=["anchors without data", "size", "classes"],
)
def test_requests_that_cannot_be_met_write_nothing(root, tmp_path, shapes, words, match):
    words = [str(shapes) if word == "DATA" else word for word in words]
    with pytest.raises(ToolkitError, match=match):
        made(root / "cfg/yolov3.cfg", tmp_path / "my.cfg", *words)
    assert not (tmp_path / "my.cfg").exists()


def test_the_source_is_never_written_to(root, tmp_path):
    source = tmp_path / "x.cfg"
    source.write_text((root / "cfg/yolov3-tiny.cfg").read_text())
    with pytest.raises(ToolkitError, match="another name"):
        made(source, source, "--classes", "3")
    assert source.read_text() == (root / "cfg/yolov3-tiny.cfg").read_text()
