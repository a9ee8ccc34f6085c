"""Anchors taken out of a cfg and put in again."""

import numpy as np
import pytest

from utils.darknet.anchors import anchor_lines, slots, with_anchors
from utils.darknet.network import Network

NET = "[net]\nwidth=64\nheight=32\nchannels=3\n"


def head(mask: str, anchors: str, stride: int = 8) -> str:
    filters, count = 7 * (mask.count(",") + 1), anchors.count(",") // 2 + 1
    pool = f"[maxpool]\nsize={stride}\nstride={stride}\n"
    conv = f"[convolutional]\nfilters={filters}\nsize=1\nactivation=linear\n"
    return f"{pool}{conv}[yolo]\nmask={mask}\nanchors={anchors}\nclasses=2\nnum={count}\n"


def two_heads(first: str, second: str) -> Network:
    return Network.from_text(NET + first + "[route]\nlayers=-3\n" + second)


def test_slots_are_the_masked_anchors_once_each():
    network = two_heads(head("1,2", "1,2,3,4,5,6,7,8"), head("2,3", "1,2,3,4,5,6,7,8", 1))
    assert slots(network) == ((3, 4), (5, 6), (7, 8))


def test_unmasked_anchors_stay():
    network = two_heads(head("1,2", "1,2,3,4,5,6,7,8"), head("2,3", "1,2,3,4,5,6,7,8", 1))
    changed = with_anchors(network, [(30, 40), (50, 60), (70.25, 80)])
    assert changed[changed.heads[0]].options["anchors"] == "1,2,30,40,50,60,70.2,80"
    assert changed[changed.heads[0]].anchors == changed[changed.heads[1]].anchors


def test_lists_of_their_own_go_from_fine_to_coarse():
    network = two_heads(head("0", "30,40"), "[upsample]\nstride=4\n" + head("0", "1,2", 1))
    assert slots(network) == ((1, 2), (30, 40))
    assert anchor_lines(network, [(5, 6), (7, 8)]) == ("5,6", "7,8")


def test_region_anchors_are_in_cells():
    region = head("0", "1.5,2").replace("[yolo]\nmask=0", "[region]\nsoftmax=1")
    network = Network.from_text(NET + region)
    assert slots(network) == ((12, 16),)
    assert anchor_lines(network, [(4, 8)]) == ("0.5,1",)


@pytest.mark.parametrize("name", ["yolov3", "yolov2", "yolov3-tiny", "yolov4-csp", "Gaussian_yolov3_BDD"])
def test_what_is_put_in_comes_out(shared, name):
    network = Network.from_cfg(shared / f"zoo/{name}.cfg")
    sizes = [(10.5 + number, 300.0 - number) for number in range(len(slots(network)))]
    np.testing.assert_allclose(slots(with_anchors(network, sizes)), sizes, atol=0.051)


def test_another_number_of_anchors_is_refused():
    with pytest.raises(ValueError, match="1 anchors for the 2"):
        anchor_lines(Network.from_text(NET + head("0,1", "1,2,3,4")), [(1, 2)])
