"""Metadata of exported files: read as written, refused where damaged."""

import json

import pytest

from tests.runtimes.exported import METADATA, NAMES, SIZE
from utils.errors import ToolkitError
from utils.runtimes.metadata import darknet_of, names_of, size_step_of

SAID = json.loads(METADATA["darknet"])


def test_what_an_export_writes_is_read() -> None:
    assert darknet_of(METADATA, "a.onnx") == SAID | {"image_size": SIZE}
    assert names_of(METADATA, "a.onnx") == NAMES
    assert size_step_of(METADATA | {"strides": "[8, 32, 16]"}, "a.onnx") == 32


def test_a_file_may_say_nothing() -> None:
    assert (darknet_of({}, "a"), names_of({}, "a"), size_step_of({}, "a")) == ({}, (), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 416),
        ("image_size", [416]),
        ("image_size", [0, 416]),
        ("image_size", "ab"),
        ("nms_kind", "zz"),
        ("nms_kind", []),
        ("beta_nms", "0.6"),
        ("beta_nms", float("nan")),
        ("channels", 3.0),
        ("channels", True),
        ("letterbox", 1),
    ],
)
def test_a_value_that_no_export_writes_is_named(name: str, value: object) -> None:
    with pytest.raises(ToolkitError, match=rf"^a\.onnx: .*darknet: {name} .* is not .*; export .* again$"):
        darknet_of({"darknet": json.dumps(SAID | {name: value})}, "a.onnx")


@pytest.mark.parametrize("text", ["", "{", "x", "[]", '"x"', "null", "{}", "[" * 100_000])
def test_a_text_that_is_no_object_is_named(text: str) -> None:
    with pytest.raises(ToolkitError, match=r"^a\.onnx: .*darknet: "):
        darknet_of({"darknet": text}, "a.onnx")


@pytest.mark.parametrize("text", ["{", "32", "[0]", '["32"]', "[[32]]", "{}"])
def test_strides_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ToolkitError, match=r"^a\.onnx: .*strides: "):
        size_step_of({"strides": text}, "a.onnx")


@pytest.mark.parametrize("text", ["[", '"one"', "[1]", "{}"])
def test_names_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ToolkitError, match=r"^a\.onnx: .*names: "):
        names_of({"names": text}, "a.onnx")
