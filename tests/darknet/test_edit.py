"""Editing networks: what is asked for changes, every reference keeps its target."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.darknet.edit import ResidualBlock, residual_blocks, with_classes, with_filters, without_blocks
from utils.darknet.network import Network
from utils.darknet.sections import Convolutional, Dropout, Route, Shortcut
from utils.errors import CfgError

ROOT = Path(__file__).parents[2]
NET = "[net]\nwidth=16\nheight=16\nchannels=3\n"
CONV = "[convolutional]\nfilters=8\n"


def network(*sections: str) -> Network:
    return Network.from_text(NET + "\n".join(sections), "a.cfg")


def test_with_filters_changes_just_these_and_what_follows_from_them():
    before = Network.from_cfg(ROOT / "tests/cfgs/route_groups.cfg")
    after = with_filters(before, {0: 4, 3: 6})
    changed = [i for i in range(len(before)) if before[i] != after[i]]
    assert changed == [0, 3]
    assert [after.channels(i) for i in (0, 1, 4, 6)] == [4, 2, 10, 6]
    assert before.channels(0) == 8


def test_depthwise_groups_follow_their_filters():
    before = Network.from_cfg(ROOT / "tests/cfgs/depthwise.cfg")
    after = with_filters(before, {0: 3, 1: 5, 2: 5, 3: 3, 5: 6})
    assert [(after[i].filters, after[i].groups) for i in (1, 2, 5)] == [(5, 1), (5, 5), (6, 3)]
    with pytest.raises(CfgError, match=r"groups=12 does not divide 5 input channels"):
        with_filters(before, {1: 5, 2: 5}, {2: 12})


def test_groups_are_set_where_asked():
    before = Network.from_cfg(ROOT / "tests/cfgs/groups.cfg")
    after = with_filters(before, {0: 9, 1: 6}, {1: 3})
    assert (after[1].filters, after[1].groups, after.input_channels(1)) == (6, 3, 9)
    assert after.raw[2].options["groups"] == "3"


def test_with_filters_refuses_what_cannot_be():
    net = Network.from_cfg(ROOT / "tests/cfgs/groups.cfg")
    with pytest.raises(CfgError, match=r"groups.cfg:\d+: \[convolutional\] #1: groups=4 does not divide"):
        with_filters(net, {0: 7})
    with pytest.raises(CfgError, match="needs 14 channels"):
        with_filters(net, {4: 13})
    with pytest.raises(ValueError, match="has no filters"):
        with_filters(net, {5: 4})


def test_with_classes_resizes_each_head_and_its_convolution():
    before = Network.from_cfg(ROOT / "cfg/yolov3.cfg")
    after = with_classes(before, 3)
    assert [after[head].classes for head in after.heads] == [3, 3, 3]
    assert [after.channels(head) for head in after.heads] == [24, 24, 24]
    assert sum(a != b for a, b in zip(before.sections, after.sections, strict=True)) == 6
    assert with_classes(after, 80).sections == before.sections


def test_yolov3_has_23_blocks_of_two_convolutions():
    net = Network.from_cfg(ROOT / "cfg/yolov3.cfg")
    blocks = residual_blocks(net)
    assert len(blocks) == 23
    assert [block.shortcut for block in blocks] == [
        i for i, s in enumerate(net.sections) if isinstance(s, Shortcut)
    ]
    assert all(block.identity == block.shortcut - 3 for block in blocks)
    assert blocks[0] == ResidualBlock(1, (2, 3), 4)
    assert blocks[0].sections == (2, 3, 4)


def test_branches_may_be_longer_and_hold_dropout(shared):
    assert [len(b.branch) for b in residual_blocks(Network.from_cfg(ROOT / "tests/cfgs/residual.cfg"))] == [
        2,
        2,
        3,
    ]
    net = Network.from_cfg(shared / "weights/yolo-fastest-1.1/yolo-fastest-1.1.cfg")
    blocks = residual_blocks(net)
    assert len(blocks) == 18
    assert all(isinstance(net[block.branch[-1]], Dropout) for block in blocks)


@pytest.mark.parametrize(
    "sections, reason",
    [
        ([CONV, CONV, CONV, "[shortcut]\nfrom=-3,-2"], "two sources"),
        ([CONV, CONV, "[shortcut]\nfrom=-2", "[route]\nlayers=1,2"], "the branch is read elsewhere"),
        (
            [CONV, CONV, "[route]\nlayers=-1,0", "[convolutional]\nfilters=9", "[shortcut]\nfrom=0"],
            "unequal channels",
        ),
        ([CONV, CONV, CONV, "[route]\nlayers=0", "[shortcut]\nfrom=1"], "the branch reads something older"),
        (
            [CONV, CONV, "[route]\nlayers=0", CONV, "[shortcut]\nfrom=0"],
            "a section between that nobody reads",
        ),
        ([CONV, "[shortcut]\nfrom=-1"], "no branch"),
        (
            [CONV, CONV, "[shortcut]\nfrom=-2\nweights_type=per_channel\nweights_normalization=relu"],
            "weights",
        ),
        ([CONV, "[dropout]\nprobability=0.5", "[shortcut]\nfrom=0"], "no weights in the branch"),
    ],
)
def test_what_is_no_block(sections, reason):
    assert residual_blocks(network(*sections)) == (), reason


def test_a_branch_that_adds_the_identity_itself_is_no_block():
    inner = [CONV, CONV, "[shortcut]\nfrom=0"]  # 2 = 0 + 1
    net = network(*inner, "[activation]\nactivation=leaky", "[shortcut]\nfrom=0")  # 4 = 0 + act(0 + 1)
    assert [block.shortcut for block in residual_blocks(net)] == [2]
    gated = [CONV, CONV, "[avgpool]", CONV, "[scale_channels]\nfrom=0", "[shortcut]\nfrom=0"]
    assert residual_blocks(network(*gated[:1], *gated[2:])) == ()  # 3 = 0 x gate
    net = network(*inner, CONV, "[shortcut]\nfrom=0")  # 4 = 0 + conv(0 + 1)
    assert [block.shortcut for block in residual_blocks(net)] == [2, 4]


def test_references_keep_their_targets_and_their_style():
    net = network(
        CONV,
        CONV,
        CONV,
        "[shortcut]\nfrom=-3",
        CONV,
        CONV,
        "[shortcut]\nfrom=-3",
        "[route]\nlayers=-4,6,-7,0",
    )
    first, second = residual_blocks(net)
    shorter, moved = without_blocks(net, [first])
    assert moved == {0: 0, 4: 1, 5: 2, 6: 3, 7: 4}
    assert (shorter.raw[-2].options["from"], shorter.raw[-1].options["layers"]) == ("-3", "-4,3,-4,0")
    assert (shorter.sources(3), shorter.sources(4)) == ((2, 0), (0, 3, 0, 0))
    shortest, moved = without_blocks(net, [second, first])
    assert moved == {0: 0, 7: 1}
    assert shortest.sources(1) == (0, 0, 0, 0)
    assert shortest.raw[-1].options["layers"] == "-1,0,-1,0"
    assert len(net) == 8


def test_an_activation_behind_the_sum_outlives_its_block():
    net = network(CONV, CONV, CONV, "[shortcut]\nfrom=-3\nactivation=leaky", "[route]\nlayers=-1,3,0")
    (block,) = residual_blocks(net)
    assert (block.sections, block.activation) == ((1, 2), "leaky")
    shorter, moved = without_blocks(net, [block])
    assert moved == {0: 0, 3: 1, 4: 2}
    assert [section.kind for section in shorter.sections] == ["convolutional", "activation", "route"]
    assert (shorter[1].activation, shorter.sources(1), shorter.sources(2)) == ("leaky", (0,), (1, 1, 0))
    assert shorter.raw[-1].options["layers"] == "-1,1,0"


YOLOV3 = Network.from_cfg(ROOT / "cfg/yolov3.cfg")
YOLOV3_BLOCKS = residual_blocks(YOLOV3)


@given(st.sets(st.sampled_from(YOLOV3_BLOCKS)))
def test_removal_follows_the_published_rule(chosen):
    removed = {index for block in chosen for index in block.sections}
    shorter, moved = without_blocks(YOLOV3, chosen)
    assert len(shorter) == len(YOLOV3) - 3 * len(chosen)
    assert list(moved) == [index for index in range(len(YOLOV3)) if index not in removed]
    for old, new in moved.items():
        assert type(shorter[new]) is type(YOLOV3[old])
        if not isinstance(YOLOV3[old], (Route, Shortcut)):
            continue
        key = "layers" if isinstance(YOLOV3[old], Route) else "from"
        before = [int(value) for value in YOLOV3[old].options[key].split(",")]
        after = [int(value) for value in shorter[new].options[key].split(",")]
        expected = [
            k - sum(gone <= k for gone in removed)
            if k >= 0
            else k + sum(old + k < gone < old for gone in removed)
            for k in before
        ]
        assert after == expected
    assert len(residual_blocks(shorter)) == 23 - len(chosen)


def test_foreign_blocks_are_refused():
    with pytest.raises(ValueError, match="not residual blocks of this network"):
        without_blocks(YOLOV3, [ResidualBlock(1, (2,), 3)])


def test_convolutions_keep_everything_else():
    net = with_filters(YOLOV3, {0: 5})
    section = net[0]
    assert isinstance(section, Convolutional)
    assert (section.filters, section.size, section.activation, section.line) == (
        5,
        3,
        "leaky",
        YOLOV3[0].line,
    )
    assert net.source == YOLOV3.source
