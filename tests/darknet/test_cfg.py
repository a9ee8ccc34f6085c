"""Cfg text: Darknet's reading of it, the round trip, and messages that lead to the line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.darknet.cfg import Options, RawSection, format_cfg, parse_cfg, read_cfg
from utils.darknet.network import Network
from utils.errors import CfgError

ROOT = Path(__file__).parents[2]
CFGS = sorted([*ROOT.glob("cfg/*.cfg"), *ROOT.glob("tests/cfgs/*.cfg")])

words = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)
values = st.one_of(
    words, st.lists(st.integers(-99, 999), min_size=1, max_size=5).map(lambda v: ",".join(map(str, v)))
)
kinds = words.filter(lambda kind: parse_cfg(f"[{kind}]")[0].kind == kind)
raw_sections = st.builds(RawSection, kinds, st.dictionaries(words, values, max_size=6))


@given(st.lists(raw_sections, min_size=1, max_size=6))
def test_parse_reverses_format(sections):
    parsed = parse_cfg(format_cfg(sections))
    assert parsed == sections
    assert [list(section.options) for section in parsed] == [list(section.options) for section in sections]


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_own_cfgs_survive_the_round_trip(path):
    sections = read_cfg(path)
    text = format_cfg(sections)
    assert parse_cfg(text) == sections
    for line in filter(None, text.split("\n")):  # what OpenCV can read: strict, no remarks
        assert line.startswith("[") or (line.count("=") == 1 and " " not in line and "#" not in line)


def test_messy_text_reads_as_darknet_reads_it():
    net, conv, pool, mish, route, head, yolo = read_cfg(ROOT / "tests/cfgs/messy.cfg")
    assert net.kind == "net"
    assert dict(net.options) == {"width": "32", "height": "32", "channels": "3", "learning_rate": ".001"}
    assert (conv.kind, conv.options["filters"], conv.options["my_option"]) == ("convolutional", "6", "kept")
    assert (pool.kind, mish.options["activation"]) == ("maxpool", "mish")
    assert route.options["layers"] == "-1,0"
    assert "batch_normalize" not in head.options
    assert yolo.options["anchors"] == "4,5,8,7,12,14"


@pytest.mark.parametrize("mark", ["#", ";"])
def test_remarks_behind_values_are_neither_read_nor_written(mark):
    text = (
        f"[net]\npolicy = steps {mark} decay {mark} = 1\n[yolo]\niou_loss=ciou{mark}x\nanchors=1,2 {mark} 3\n"
    )
    sections = parse_cfg(text)
    written = format_cfg(sections)
    assert written == "[net]\npolicy=steps\n\n[yolo]\niou_loss=ciou\nanchors=1,2\n"
    assert parse_cfg(written) == sections


def test_a_remark_behind_an_activation_stays_the_error_it_is_for_darknet():
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[conv]\nfilters=4\nactivation=linear # x\n"
    assert parse_cfg(format_cfg(parse_cfg(text))) == parse_cfg(text)
    with pytest.raises(CfgError, match=r"a.cfg:7: .* activation=linear#x is unknown; use one of"):
        Network.from_text(text, "a.cfg")


@pytest.mark.parametrize(
    "value", ["1_6", "nan", "inf", "-inf", "1e999", "0x10", "\u0661", "1,,2", "1,", "+", "."]
)
def test_what_python_takes_for_numbers_and_darknet_does_not_is_refused(value):
    options = Options(RawSection("yolo", {"key": value}, 3, {"key": 4}), 0, "a.cfg")
    for read in (options.integers, options.numbers):
        with pytest.raises(
            CfgError, match=r"a.cfg:4: \[yolo\] #0: key=.* is not .*; write .*numbers such as"
        ):
            read("key")


def test_numbers_in_every_notation_of_c():
    options = Options(RawSection("yolo", {"n": "1,-.5,+2.,1e-3,2.5E+1", "i": "-1,+36,007"}), 0, "a.cfg")
    assert options.numbers("n") == (1.0, -0.5, 2.0, 0.001, 25.0)
    assert options.integers("i") == (-1, 36, 7)


def test_lines_are_counted_through_comments_and_any_line_end():
    for end in ("\n", "\r\n", "\r"):
        sections = parse_cfg(end.join(["# one", "[net]", "", "; four", "width=8", "[conv]"]))
        assert [section.line for section in sections] == [2, 6]
        assert sections[0].option_lines == {"width": 5}


@pytest.mark.parametrize(
    "encoded",
    [
        "[net]\n# größe\nwidth=8".encode(),
        "\ufeff[net]\n# größe\nwidth=8".encode(),
        "[net]\n# größe\nwidth=8".encode("latin-1"),
        "[net]\n# 宽度\nwidth=8".encode("gbk"),
        "[net]\n# größe\nwidth=8".encode("utf-16"),
    ],
    ids=["utf-8", "with mark", "latin-1", "gbk", "utf-16"],
)
def test_any_encoding_of_comments_reads(tmp_path, encoded):
    path = tmp_path / "a.cfg"
    path.write_bytes(encoded)
    assert read_cfg(path) == [RawSection("net", {"width": "8"})]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "a.cfg: contains no [section]"),
        ("# nothing\n", "a.cfg: contains no [section]"),
        ("width=8\n[net]", "a.cfg:1: 'width=8' comes before the first section"),
        ("[net]\nwidth 8", "a.cfg:2: 'width8' has no '='"),
        ("[net]\nwidth=", "a.cfg:2: 'width=' has no value"),
        ("[net]\nwidth= # 8", "a.cfg:2: 'width=#8' has no value"),
        ("[net]\n\n=8", "a.cfg:3: '=8' has no key"),
        ("[net]\n[conv\nsize=1", "a.cfg:2: '[conv' is not a section header"),
        ("[net] # text", "a.cfg:1: '[net]#text' is not a section header"),
        ("[]", "a.cfg:1: '[]' is not a section header"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text, message):
    with pytest.raises(CfgError) as error:
        parse_cfg(text, "a.cfg")
    assert str(error.value).startswith(message)
    assert ";" in str(error.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(CfgError, match="no such file"):
        read_cfg(tmp_path / "absent.cfg")
    with pytest.raises(CfgError, match="cannot be read"):
        read_cfg(tmp_path)
    (tmp_path / "x.weights").write_bytes(bytes(20))
    with pytest.raises(CfgError, match="is binary"):
        read_cfg(tmp_path / "x.weights")
