"""The Darknet binary: bitwise round trips, and a word for every way in which a file can be wrong."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.darknet.references import random_images, randomised
from utils.darknet.model import Darknet
from utils.darknet.weights import WeightsHeader, fields, read_header, read_weights, write_weights
from utils.errors import WeightsError

ROOT = Path(__file__).parents[2]
FEATURES = sorted(path.stem for path in ROOT.glob("tests/cfgs/*.cfg"))
RESIDUAL = ROOT / "tests/cfgs/residual.cfg"
# residual.cfg: floats of #0 and #1, 3 -> 8 -> 4 channels, 3x3 and 1x1, four numbers a channel for batch norm
FIRST, SECOND = 3 * 8 * 9 + 4 * 8, 8 * 4 + 4 * 4


@pytest.fixture
def written(tmp_path):
    """A model and its file."""
    model = randomised(Darknet.from_cfg(RESIDUAL))
    path = tmp_path / "a.weights"
    write_weights(path, model, WeightsHeader(seen=123))
    return model, path


def cut(path: Path, floats: int, extra: bytes = b"") -> Path:
    """Keep the header and so many floats."""
    path.write_bytes(path.read_bytes()[: 20 + 4 * floats] + extra)
    return path


def message_of(path: Path, cutoff=None) -> str:
    model = Darknet.from_cfg(RESIDUAL)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(WeightsError) as error:
        read_weights(path, model, cutoff)
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))
    assert str(error.value).startswith(f"{path}: ")
    assert ";" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FEATURES)
def test_written_and_read_again_it_computes_the_same(name, tmp_path):
    model = randomised(Darknet.from_cfg(ROOT / f"tests/cfgs/{name}.cfg"))
    write_weights(tmp_path / "a.weights", model, WeightsHeader(0, 2, 5, 7))
    assert (tmp_path / "a.weights").stat().st_size == 20 + 4 * sum(model.network.weight_counts)
    again = Darknet(model.network).eval()
    header = read_weights(tmp_path / "a.weights", again)
    assert header == WeightsHeader(0, 2, 5, 7)
    images = random_images(model)
    assert all(torch.equal(x, y) for x, y in zip(model(images), again(images), strict=True))
    write_weights(tmp_path / "b.weights", again, header)
    assert (tmp_path / "a.weights").read_bytes() == (tmp_path / "b.weights").read_bytes()


@pytest.mark.parametrize("layout", ["float64", "bfloat16", "channels_last"])
def test_files_do_not_depend_on_the_models_type_or_layout(layout, written, tmp_path):
    model, path = written
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    else:
        model.to(getattr(torch, layout))
    write_weights(tmp_path / "b.weights", model, WeightsHeader(seen=123))
    ours, theirs = (np.fromfile(file, "<f4", offset=20) for file in (path, tmp_path / "b.weights"))
    np.testing.assert_allclose(ours, theirs, rtol=2**-8 if layout == "bfloat16" else 0)


def test_real_files_come_out_as_they_went_in(shared, tmp_path):
    for path in sorted(shared.glob("weights/*/*.weights")):
        model = Darknet.from_cfg(path.with_suffix(".cfg"))
        write_weights(tmp_path / "a.weights", model, read_weights(path, model))
        assert (tmp_path / "a.weights").read_bytes() == path.read_bytes()


def test_the_real_tiny_has_8858734_floats(shared):
    model = Darknet.from_cfg(ROOT / "cfg/yolov3-tiny.cfg")
    assert sum(model.network.weight_counts) == 8_858_734
    assert read_weights(shared / "weights/yolov3-tiny/yolov3-tiny.weights", model).seen == 32_013_312


def test_the_order_of_fields_is_that_of_the_file(written):
    model, path = written
    floats = np.fromfile(path, "<f4", offset=20)
    block = model.layers[0]
    for start, field in ((0, block.norm.bias), (8, block.norm.weight), (16, block.norm.running_mean)):
        np.testing.assert_array_equal(floats[start : start + 8], field.detach().numpy())
    np.testing.assert_array_equal(floats[24:32], block.norm.running_var.numpy())
    np.testing.assert_array_equal(floats[32 : 32 + 216], block.conv.weight.detach().numpy().ravel())
    head = model.layers[12]
    assert [field is one for field, one in zip(fields(head), (head.conv.bias, head.conv.weight), strict=True)]


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 9999), st.integers(0, 2**32 - 1))
def test_headers_of_every_version(major, minor, revision, seen):
    header = WeightsHeader(major, minor, revision, seen)
    packed = header.pack()
    assert len(packed) == (20 if major * 10 + minor >= 2 else 16)
    assert WeightsHeader.unpack(packed + b"floats") == (header, len(packed))
    assert header.is_plausible
    for length in range(len(packed)):
        with pytest.raises(ValueError, match="shorter"):
            WeightsHeader.unpack(packed[:length])


def test_old_headers_have_a_short_seen(written, tmp_path):
    model, path = written
    floats = path.read_bytes()[20:]
    old = tmp_path / "old.weights"
    old.write_bytes(struct.pack("<3iI", 0, 1, 0, 99) + floats)
    assert read_weights(old, Darknet(model.network)) == WeightsHeader(0, 1, 0, 99)


def test_a_truncated_file_names_the_section_and_what_is_missing(written):
    message = message_of(cut(written[1], FIRST + 10))
    line = written[0].network[1].line
    assert RESIDUAL.read_text().splitlines()[line - 1] == "[convolutional]"
    assert (
        f"ends inside {RESIDUAL}:{line}: [convolutional] #1: {SECOND - 10} of its {SECOND} floats" in message
    )


def test_a_file_cut_inside_a_float_is_truncated_too(written):
    model, path = written
    total = sum(model.network.weight_counts)
    message = message_of(cut(path, total - 1, b"ab"))
    assert f"[convolutional] #12: 1 of its {12 * 14 + 14} floats are missing" in message


def test_a_longer_file_names_the_last_section_and_what_is_left(written):
    model, path = written
    message = message_of(cut(path, sum(model.network.weight_counts), bytes(44)))
    assert "11 floats are left over after" in message
    assert "[convolutional] #12, the last with weights" in message


@pytest.mark.parametrize(
    "content, fact",
    [
        (b"", "is empty"),
        (b"\0" * 7, "has 7 bytes, too few for the header"),
        (WeightsHeader().pack()[:16], "has 16 bytes, too few for the header"),
        (WeightsHeader().pack(), "has a header and no weights"),
        (b"PK\x03\x04" + bytes(100), "is not a Darknet weights file (begins with b'PK"),
        (b"<!DOCTYPE html><html>" + bytes(100), "is not a Darknet weights file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a Darknet weights file"),
    ],
    ids=["empty", "stub", "half a header", "header only", "zip", "html", "lfs pointer"],
)
def test_foreign_and_empty_files(content, fact, tmp_path):
    path = tmp_path / "x.weights"
    path.write_bytes(content)
    assert fact in message_of(path)


def test_missing_files_and_folders(tmp_path):
    assert "no such file; check --weights" in message_of(tmp_path / "absent.weights")
    assert "cannot be read" in message_of(tmp_path)


def test_weights_of_another_network(shared, written):
    path = shared / "weights/yolo-fastest-1.1/yolo-fastest-1.1.weights"
    assert "floats are left over" in message_of(path)
    with pytest.raises(WeightsError, match=r"ends inside .*yolov3-tiny.cfg:\d+: \[convolutional\] #\d+"):
        read_weights(written[1], Darknet.from_cfg(ROOT / "cfg/yolov3-tiny.cfg"))


# In residual.cfg #3 is a shortcut without weights, so 3 and 4 sections are the same file.
@pytest.mark.parametrize("sections, cutoff", [(2, 2), (2, "auto"), (3, 3), (3, 4), (3, "auto")])
def test_backbone_files_load_when_asked(sections, cutoff, written):
    model, path = written
    floats = sum(model.network.weight_counts[:sections])
    fresh = Darknet(model.network)
    untouched = fresh.layers[5].conv.weight.clone()
    read_weights(cut(path, floats), fresh, cutoff)
    for index in range(sections):
        for ours, theirs in zip(fields(fresh.layers[index]), fields(model.layers[index]), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(fresh.layers[5].conv.weight, untouched)


def test_a_backbone_file_is_recognised_by_its_length_not_its_name(written):
    model, path = written
    message = message_of(cut(path, sum(model.network.weight_counts[:3])))
    assert "ends exactly after section #2" in message
    assert (
        "backbone file of the first 3 sections; load it with cutoff=3 (--cutoff 3) or cutoff=auto" in message
    )
    renamed = path.rename(path.with_name("darknet53.conv.74"))
    assert "cutoff=3" in message_of(renamed)


def test_cutoff_takes_the_beginning_of_a_whole_file(written):
    model, path = written
    fresh = Darknet(model.network)
    head = fresh.layers[12].conv.weight.clone()
    read_weights(path, fresh, 12)
    assert torch.equal(fresh.layers[10].conv.weight, model.layers[10].conv.weight)
    assert torch.equal(fresh.layers[12].conv.weight, head)


def test_auto_takes_whole_files_and_still_refuses_broken_ones(written):
    model, path = written
    fresh = Darknet(model.network)
    read_weights(path, fresh, "auto")
    assert torch.equal(fresh.layers[12].conv.weight, model.layers[12].conv.weight)
    assert "are missing" in message_of(cut(path, FIRST + 10), "auto")
    assert "10 of its 48 floats" not in message_of(path, "auto")


def test_a_file_that_shrinks_while_it_is_read(written, monkeypatch):
    _, path = written
    found = read_header(path)
    cut(path, FIRST + 10)
    monkeypatch.setattr("utils.darknet.weights.read_header", lambda path: found)
    with pytest.raises(WeightsError, match="became shorter while it was read; copy it again"):
        read_weights(path, Darknet.from_cfg(RESIDUAL))


def test_reading_takes_no_more_memory_than_the_largest_field(root, tmp_path):
    model, path = Darknet.from_cfg(root / "cfg/yolov3-tiny.cfg"), tmp_path / "tiny.weights"
    write_weights(path, model, WeightsHeader())
    tracemalloc.start()
    read_weights(path, model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 4 * max(parameter.numel() for parameter in model.parameters())
    assert largest <= peak < 1.1 * largest < path.stat().st_size / 1.5


def test_cutoffs_that_cannot_be(written):
    _, path = written
    for cutoff in (0, -1, 15):
        assert f"cutoff={cutoff} is out of range" in message_of(path, cutoff)
    assert "are missing" in message_of(cut(path, FIRST + 10), 3)


def test_a_failed_write_leaves_the_old_file(written, monkeypatch):
    model, path = written
    before = path.read_bytes()
    monkeypatch.setattr("utils.darknet.weights.fields", lambda layer: iter([torch.zeros(1), None]))
    with pytest.raises(AttributeError):
        write_weights(path, model, WeightsHeader())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
