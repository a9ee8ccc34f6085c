"""Wider, narrower and resized networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.darknet.anchors import slots
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.scale import with_size, with_width
from utils.darknet.sections import Convolutional, Sam, ScaleChannels, Shortcut
from utils.errors import CfgError

CFGS = sorted(Path(__file__).parents[1].glob("cfgs/*.cfg"))
NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"


def conv(filters: int, more: str = "") -> str:
    return f"[convolutional]\nfilters={filters}\nsize=3\npad=1\nactivation=leaky\n{more}"


def joins(network: Network) -> list[tuple[int, bool]]:
    """Each join and whether its sources are equally wide."""
    return [
        (index, len({network.channels(source) for source in section.sources}) == 1)
        for index, section in enumerate(network.sections)
        if isinstance(section, Shortcut | Sam | ScaleChannels)
    ]


@pytest.mark.parametrize("factor", [0.25, 0.35, 0.5, 0.77, 1.5])
@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_equal_summands_stay_equal_and_heads_keep_their_inputs(path, factor):
    network = Network.from_cfg(path)
    changed = with_width(network, factor)
    assert [join for join in joins(network) if join[1]] == [
        new for old, new in zip(joins(network), joins(changed), strict=True) if old[1]
    ]
    for head in network.heads:
        assert changed.input_channels(head) == network.input_channels(head)
    assert Network.from_text(changed.to_cfg()).to_cfg() == changed.to_cfg()


@pytest.mark.parametrize("name", ["yolov3", "yolov4", "yolov4-tiny", "yolov3-spp"])
def test_half_the_width_is_half_the_filters(root, name):
    network = Network.from_cfg(root / f"cfg/{name}.cfg")
    changed = with_width(network, 0.5)
    before_heads = {network.sources(head)[0] for head in network.heads}
    for index, section in enumerate(network.sections):
        if isinstance(section, Convolutional) and index not in before_heads:
            assert changed[index].filters == section.filters / 2
    assert sum(changed.weight_counts) < 0.3 * sum(network.weight_counts)


def test_width_one_changes_nothing_that_is_a_multiple_of_eight(root):
    network = Network.from_cfg(root / "cfg/yolov4.cfg")
    assert with_width(network, 1).to_cfg() == network.to_cfg()


def test_a_convolution_added_to_a_concatenation_follows_it():
    """0.35 x 128 is 48 and twice that 96, but 0.35 x 256 is 88."""
    sections = conv(128) + conv(128) + "[route]\nlayers=-1,-2\n" + conv(256) + "[shortcut]\nfrom=-2\n"
    changed = with_width(Network.from_text(NET + sections), 0.35)
    assert (changed.channels(2), changed.channels(3)) == (96, 96)


def test_depthwise_groups_follow_and_other_groups_still_divide():
    sections = conv(64) + conv(64, "groups=64\n") + conv(64, "groups=32\n")
    changed = with_width(Network.from_text(NET + sections), 0.75)
    assert [(section.filters, section.groups) for section in changed.sections] == [
        (48, 1),
        (48, 48),
        (48, 16),
    ]


def test_two_concatenations_that_rounding_parts_are_refused():
    sections = (
        *(conv(128), conv(128), "[route]\nlayers=-1,-2\n", conv(64), conv(64), conv(64), conv(64)),
        "[route]\nlayers=-1,-2,-3,-4\n[shortcut]\nfrom=2\n",
    )
    network = Network.from_text(NET + "".join(sections))
    with pytest.raises(CfgError, match="another width"):
        with_width(network, 0.3)


def test_a_scaled_network_runs(shared):
    network = with_width(Network.from_cfg(shared / "zoo/enet-coco.cfg"), 0.5)
    with torch.no_grad():
        heads = Darknet(network).eval()(torch.rand(1, 3, 64, 64))
    assert [tuple(head.shape[1:4]) for head in heads] == [(3, 2, 2), (3, 4, 4)]


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov2"])
def test_anchors_grow_with_the_image(root, shared, name):
    folder = shared / "zoo"
    network = Network.from_cfg(folder / f"{name}.cfg")
    changed = with_size(network, 320, 640)
    assert (changed.height, changed.width) == (320, 640)
    scale = np.array([640 / network.width, 320 / network.height])
    np.testing.assert_allclose(slots(changed), slots(network) * scale, atol=0.051)


def test_a_size_that_does_not_fit_is_refused():
    network = Network.from_text(NET + conv(8) + conv(8, "stride=2\n") + "[upsample]\n[shortcut]\nfrom=-3\n")
    with pytest.raises(CfgError, match="different size"):
        with_size(network, 33, 32)
