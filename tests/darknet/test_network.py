"""Networks: references, channels and shapes, and a line for everything that is wrong."""

import logging
from pathlib import Path

import pytest

from utils.darknet.heads import Yolo
from utils.darknet.network import Network
from utils.darknet.sections import Convolutional, Maxpool, Route, Shortcut
from utils.errors import CfgError, UnsupportedSectionError

ROOT = Path(__file__).parents[2]
CFGS = sorted([*ROOT.glob("cfg/*.cfg"), *ROOT.glob("tests/cfgs/*.cfg")])
NET = "[net]\nwidth=16\nheight=16\nchannels=3\n"
# The zoo's cfgs of sections that nothing here computes, with the section that is named.
UNSUPPORTED = {"yolov3-tiny_occlusion_track": "112: [crnn]"}
STOCK = {"yolov3": 107, "yolov3-spp": 114, "yolov3-tiny": 24, "yolov4": 162, "yolov4-tiny": 38}


def network(*sections: str) -> Network:
    return Network.from_text(NET + "\n".join(sections), "a.cfg")


def conv(filters: int = 8, **options: object) -> str:
    lines = [f"{key}={value}" for key, value in {"filters": filters, "size": 1, **options}.items()]
    return "\n".join(["[convolutional]", *lines])


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_written_and_read_again_it_is_equal(path):
    first = Network.from_cfg(path)
    second = Network.from_text(first.to_cfg())
    assert second.sections == first.sections
    assert second.to_cfg() == first.to_cfg()
    assert dict(second.options) == dict(first.options)


@pytest.mark.parametrize("name", STOCK)
def test_stock_cfgs_describe_the_published_networks(name, root, shared):
    ours, theirs = Network.from_cfg(root / f"cfg/{name}.cfg"), Network.from_cfg(shared / f"zoo/{name}.cfg")
    assert ours.sections == theirs.sections
    assert len(ours) == STOCK[name]


def test_the_demo_network_has_the_structure_of_yolov3(root):
    small, full = (Network.from_cfg(root / f"cfg/{name}.cfg") for name in ("yolov3-shapes", "yolov3"))
    assert [(type(s), s.sources) for s in small.sections] == [(type(s), s.sources) for s in full.sections]
    assert all(
        ours.filters * 4 <= theirs.filters
        for index, (ours, theirs) in enumerate(zip(small.sections, full.sections, strict=True))
        if isinstance(ours, Convolutional)
        and isinstance(theirs, Convolutional)
        and index + 1 not in small.heads
    )


def test_every_zoo_cfg_is_read_or_refused_with_its_line(shared):
    for path in sorted(shared.glob("zoo/*.cfg")):
        try:
            network = Network.from_cfg(path)
        except UnsupportedSectionError:
            continue
        assert path.stem not in UNSUPPORTED
        assert Network.from_text(network.to_cfg()).sections == network.sections
    for stem, place in UNSUPPORTED.items():
        with pytest.raises(UnsupportedSectionError) as error:
            Network.from_cfg(shared / f"zoo/{stem}.cfg")
        assert str(error.value).startswith(f"{shared / 'zoo' / stem}.cfg:")
        assert place in str(error.value)


def test_defaults_are_those_of_the_c_program():
    net = network("[convolutional]", "[maxpool]\nstride=2", "[shortcut]\nfrom=-1", "[upsample]", "[dropout]")
    assert net[0] == Convolutional(sources=(-1,), filters=1, size=1, activation="logistic")
    assert net[1] == Maxpool(sources=(0,), size=2, stride=(2, 2), padding=1)
    assert net[2] == Shortcut(sources=(1, 1), activation="linear")
    assert net.shape(3).size == (16, 16)
    assert net[4].probability == 0.2


def test_references_are_absolute_and_relative_ones_count_from_the_section():
    net = network(
        conv(4), conv(4), conv(4), "[route]\nlayers=-1,0,-3", "[shortcut]\nfrom=3", "[route]\nlayers=-1"
    )
    assert net.sources(3) == (2, 0, 0)
    assert net.sources(4) == (3, 3)
    assert net.sources(5) == (4,)
    assert net.readers(-1) == (0,)
    assert net.readers(0) == (1, 3)
    assert net.readers(5) == ()


def test_channels_and_shapes_of_every_kind():
    net = network(
        conv(8, size=3, stride=2, pad=1),
        "[route]\nlayers=-1\ngroups=4\ngroup_id=3",
        "[route]\nlayers=-1,0",
        "[upsample]\nstride=4",
        "[upsample]\nstride=-2",
        "[maxpool]\nsize=3\nstride=2",
        "[avgpool]",
    )
    shapes = [tuple(net.shape(index)) for index in range(-1, len(net))]
    assert shapes == [
        *((3, 16, 16), (8, 8, 8), (2, 8, 8), (10, 8, 8), (10, 32, 32), (10, 16, 16), (10, 8, 8), (10, 1, 1))
    ]
    assert (net.channels(-1), net.input_channels(2), net.stride(5)) == (3, 2, 2)


def test_padding_follows_pad_and_padding():
    sizes = {"pad=1\nsize=4": 17, "padding=1\nsize=3": 16, "padding=5\npad=1\nsize=3": 16, "size=3": 14}
    for text, height in sizes.items():
        assert network(f"[convolutional]\n{text}").shape(0).height == height


def test_unknown_options_are_kept_where_they_stood():
    options = "zeta=1\nfilters=2\nalpha=x\nactivation=leaky\nsize=1"
    text = f"[net]\nhue=.1\nwidth=16\nheight=16\nchannels=3\n\n[convolutional]\n{options}\n"
    net = Network.from_text(text)
    assert net.to_cfg() == text
    assert net[0].options["alpha"] == "x"


def test_defaults_that_opencv_has_otherwise_are_written_out():
    head = "[convolutional]\nfilters=12\n[yolo]\nanchors=1,2,3,4\nclasses=1\nnum=2"
    text = network("[convolutional]", "[maxpool]\nstride=2", "[upsample]", head).to_cfg()
    blocks = [block.split("\n")[1:] for block in text.strip().split("\n\n")[1:]]
    assert blocks == [
        ["filters=1", "size=1", "activation=logistic"],
        ["stride=2", "size=2"],
        ["stride=2"],
        ["filters=12", "size=1", "activation=logistic"],
        ["anchors=1,2,3,4", "classes=1", "num=2", "mask=0,1"],
    ]


def test_heads_know_their_anchors():
    head = "[yolo]\nmask=2,0\nanchors=1,2,3,4,5.5,6\nclasses=3\nnum=3\nscale_x_y=1.1\nnms_kind=diounms"
    net = network(conv(16), head)
    section = net[1]
    assert isinstance(section, Yolo)
    assert (section.mask, section.anchors) == ((2, 0), ((1, 2), (3, 4), (5.5, 6)))
    assert (section.classes, section.scale_x_y, section.nms_kind) == (3, 1.1, "diounms")
    every = network(conv(16), "[yolo]\nanchors=1,2,3,4\nclasses=3\nnum=2")[1]
    assert isinstance(every, Yolo)
    assert every.mask == (0, 1)


WRONG = [  # text, the line, what the message says
    ("[convolutonal]", 5, "did you mean [convolutional]?"),
    ("[foo]\nx=1", 5, "[foo] #0: unknown section; use one of convolutional"),
    ("[Convolutional]", 5, "did you mean [convolutional]?"),
    ("[convolutional]\nactivation=lekay", 6, "activation=lekay is unknown; use one of linear, leaky"),
    ("[convolutional]\nactivation=linear # text", 6, "activation=linear#text is unknown"),
    ("[convolutional]\nactivation=silu", 6, "is unknown"),
    ("[convolutional]\nactivation=plse", 6, "is not supported"),
    ("[convolutional]\nsize=1\nfilters=3x2", 7, "filters=3x2 is not a whole number"),
    ("[convolutional]\nfilters=0", 6, "filters=0 is too small; use 1 or more"),
    ("[convolutional]\nfilters=8,8", 6, "has several numbers"),
    ("[convolutional]\nfilters=8.5", 6, "is not a whole number"),
    ("[convolutional]\nfilters=4\ngroups=2", 5, "groups=2 does not divide 3 input channels and filters=4"),
    ("[convolutional]\nsize=3\ndilation=2", 7, "is not well defined"),
    ("[convolutional]\npadding=1", 6, "is not well defined"),
    ("[convolutional]\nshare_index=3", 6, "share_index=3 points at or after this section"),
    ("[convolutional]\n[maxpool]\n[convolutional]\nshare_index=1", 7, "which is [maxpool]"),
    ("[convolutional]\n[convolutional]\nfilters=2\nshare_index=0", 6, "differs from #0"),
    ("[crnn]\noutput=3", 5, "[crnn] #0: unsupported section; its output depends on earlier images"),
    ("[detection]", 5, "[detection] #0: unsupported section"),
    ("[contrastive]", 5, "[contrastive] #0: unsupported section"),
    ("[implicit_add]", 5, "[implicit_add] #0: unsupported section; implicit layers"),
    ("[convolutional]\nxnor=1", 6, "xnor=1 is not supported"),
    ("[convolutional]\nbin_output=1", 6, "bin_output=1 is not supported"),
    ("[region]\nsoftmax=1\nanchors=1,2\ntree=data/9k.tree", 8, "its classes form a tree"),
    ("[region]\nanchors=1,2\nsoftmax=0", 7, "softmax=0 is not set"),
    ("[region]\nsoftmax=1\nanchors=1,2\ncoords=5", 8, "a box has 4"),
    ("[region]\nsoftmax=1\nanchors=1,2\nnum=1000000000", 8, "does not fit the 1 anchors"),
    ("[yolo]\nanchors=1,2\nnum=1000000000", 7, "does not fit the 1 anchors"),
    ("[yolo]\nanchors=1,0", 6, "size that is not positive"),
    ("[Gaussian_yolo]\nanchors=1,2\nyolo_point=left_top", 7, "yolo_point=left_top is not supported"),
    ("[reorg]\nstride=2", 5, "stride=2 squared does not divide the 3 channels"),
    ("[reorg3d]\nstride=3", 5, "stride=3 does not divide a 16x16 map"),
    ("[reorg]\nreverse=1", 6, "reverse=1 is not supported"),
    ("[convolutional]\n[scale_channels]\nfrom=-1", 6, "has 16x16x1 as scales for the 16x16x1 of section #0"),
    ("[convolutional]\n[maxpool]\nstride=2\n[sam]\nfrom=0", 8, "multiplies 8x8x1 and 16x16x1"),
    ("[convolutional]\n[convolutional]\n[sam]\nfrom=0,1", 8, "from=0,1 names several sections"),
    ("[convolutional]\nfilters=1000000000", 5, "above the limit"),
    ("[maxpool]\nsize=257", 6, "size=257 is too large; use at most 256"),
    ("[convolutional]\nsize=999\npad=1", 6, "size=999 is too large"),
    ("[convolutional]\nsize=3\npad=1\ndilation=1000000", 8, "dilation=1000000 is too large"),
    ("[upsample]\nstride=100000", 5, "values in its map, above the limit"),
    ("[convolutional]\nfilters=60000\n[convolutional]\nfilters=60000", 7, "floats, above the limit"),
    ("[softmax]\ngroups=7", 5, "groups=7 does not divide 768 values"),
    ("[softmax]\ntemperature=0", 6, "is not positive"),
    ("[convolutional]\nsize=20", 5, "is empty for an image of 16x16"),
    ("[shortcut]\nfrom=-1", 6, "from=-1 points before the first section; put a section before it"),
    (
        f"{conv()}\n[shortcut]\nfrom=-300",
        9,
        "[shortcut] #1: from=-300 points before the first section; use -1 .. -1",
    ),
    (f"{conv()}\n[shortcut]\nfrom=1", 9, "points at or after this section; use -1 .. -1 or 0 .. 0"),
    (f"{conv()}\n[shortcut]", 8, "from= is missing"),
    (f"{conv()}\n[shortcut]\nfrom=0\nweights_type=per_channel", 10, "needs weights_normalization"),
    (
        f"{conv()}\n[maxpool]\nstride=2\n[shortcut]\nfrom=-2",
        10,
        "joins maps of different size, 8x8 of section #1",
    ),
    (f"{conv()}\n[maxpool]\nstride=2\n[route]\nlayers=-1,0", 10, "joins maps of different size"),
    (f"{conv()}\n[route]\nlayers=-1,", 9, "is not a whole number"),
    (f"{conv()}\n[route]\nlayers=-1\ngroups=3", 8, "groups=3 does not divide the 8 channels of section #0"),
    (
        f"{conv()}\n[route]\nlayers=-1\ngroups=2\ngroup_id=2",
        11,
        "group_id=2 is not below groups=2; use 0 .. 1",
    ),
    ("[maxpool]\nsize=2\npadding=2", 7, "puts windows entirely outside"),
    ("[upsample]\nstride=0", 6, "is zero"),
    ("[dropout]\nprobability=1", 6, "is out of range"),
    (f"{conv(9)}\n[yolo]\nanchors=1,2\nclasses=3", 8, "needs 8 channels = 1 anchors x (5 + 3 classes)"),
    (f"{conv(8)}\n[yolo]\nanchors=1,2,3\nclasses=3", 9, "has 3 numbers; give width,height pairs"),
    (f"{conv(8)}\n[yolo]\nclasses=3", 8, "anchors= is missing"),
    (f"{conv(8)}\n[yolo]\nanchors=1,2\nmask=1\nclasses=3", 10, "mask=1 does not fit the 1 anchors"),
    (f"{conv(8)}\n[yolo]\nanchors=1,2\nclasses=3\nnms_kind=soft", 11, "nms_kind=soft is unknown"),
    (f"{conv(8)}\n[yolo]\nanchors=1,2\nclasses=3\n{conv()}", 11, "reads detection head #1"),
]


@pytest.mark.parametrize("text, line, fact", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_with_file_and_line(text, line, fact):
    with pytest.raises(CfgError) as error:
        network(text)
    message = str(error.value)
    assert message.startswith(f"a.cfg:{line}: [")
    assert fact in message
    assert ";" in message


@pytest.mark.parametrize(
    "text, message",
    [
        ("[conv]\nfilters=1", "a.cfg:1: the first section is [convolutional]; begin with [net]"),
        ("[net]\nwidth=8\nheight=8\nchannels=3", "a.cfg:1: [net]: is the only section"),
        ("[net]\nwidth=8\nchannels=3\n[conv]", "a.cfg:1: [net]: height= is missing"),
        ("[net]\nwidth=8\nheight=x\nchannels=3\n[conv]", "a.cfg:3: [net]: height=x is not a whole number"),
        ("[net]\nwidth=0\nheight=8\nchannels=3\n[conv]", "a.cfg:2: [net]: width=0 is not positive"),
    ],
)
def test_the_net_section_must_give_a_size(text, message):
    with pytest.raises(CfgError) as error:
        Network.from_text(text, "a.cfg")
    assert str(error.value).startswith(message)


def test_a_misspelt_option_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        network("[convolutional]\nfilter=3\nsize=1")
    assert caplog.messages == ["a.cfg:6: filter is ignored; did you mean filters?"]


def test_real_cfgs_raise_no_false_alarm(caplog, shared):
    with caplog.at_level(logging.WARNING):
        for path in [*shared.glob("zoo/*.cfg"), *shared.glob("weights/*/*.cfg")]:
            try:
                Network.from_cfg(path)
            except UnsupportedSectionError:
                continue
    assert caplog.messages == []


def test_shapes_at_another_size():
    net = network(
        conv(2, size=3, stride=2, pad=1), "[maxpool]\nstride=2", "[upsample]", "[route]\nlayers=-1,0"
    )
    assert net.shapes_at(8, 24)[3] == (4, 4, 12)
    with pytest.raises(CfgError, match=r"a.cfg:\d+: \[route\] #3: joins maps of different size, 4x6 .* 3x5"):
        net.shapes_at(10, 6)


def test_a_route_can_be_all_sources():
    assert network(conv(2), "[route]\nlayers=0")[1] == Route(sources=(0,))
