"""The size in an image's header is the size of the decoded image, in every format that OpenCV writes."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.images import header_size, read_image
from utils.errors import DatasetError

PARAMETERS = {
    "jpeg": (".jpg", []),
    "progressive jpeg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "png": (".png", []),
    "bmp": (".bmp", []),
    "gif": (".gif", []),
    "lossy webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "tiff": (".tiff", []),
    "ppm": (".ppm", []),
    "pgm": (".pgm", []),
}
LARGE = {  # 40,000 x 30,000 pixels in a few bytes
    "jpeg": b"\xff\xd8\xff\xe0\0\x06abcd\xff\xff\xc2\0\x11\x08"
    + struct.pack(">HH", 30_000, 40_000)
    + b"\xff\xd9",
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 40_000, -30_000),
    "old bmp": b"BM" + bytes(12) + struct.pack("<IHH", 12, 40_000, 30_000),
    "gif": b"GIF89a" + struct.pack("<HH", 40_000, 30_000),
    "webp": b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x3f\x9c\0\x2f\x75\0",
    "tiff": b"MM\0*\0\0\0\x08\0\x02"
    + struct.pack(">HHIHH", 256, 3, 1, 40_000, 0)
    + struct.pack(">HHII", 257, 4, 1, 30_000),
    "pgm": b"P5\n# by hand\n40000 30000\n255\n",
}  # fmt: skip


@pytest.mark.parametrize("suffix, parameters", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (300, 17)])
def test_the_size_is_that_of_the_decoded_image(suffix, parameters, size):
    image = np.random.default_rng(0).integers(0, 256, size if suffix == ".pgm" else (*size, 3), np.uint8)
    data = cv2.imencode(suffix, image, parameters)[1].tobytes()
    assert header_size(data) == size


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
def test_large_claims_are_refused_without_decoding(tmp_path, monkeypatch, data):
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS", raising=False)
    (tmp_path / "large").write_bytes(data)
    with pytest.raises(DatasetError, match="large: has 40000x30000 pixels, above the limit of 134,217,728"):
        read_image(tmp_path / "large")


def test_the_limit_can_be_changed_by_opencvs_own_variable(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "599")
    with pytest.raises(DatasetError, match="30x20 pixels, above the limit of 599; make it smaller, or raise"):
        read_image(path)
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "600")
    assert read_image(path).shape == (20, 30, 3)


STARTS = (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF1234WEBPVP8L")


@given(st.sampled_from((*STARTS, b"II*\0", b"MM\0*", b"P6 ")), st.binary(max_size=64))
def test_a_damaged_header_has_no_size_or_some(start, rest):
    size = header_size(start + rest)
    assert size is None or (len(size) == 2 and min(size) >= 0)
