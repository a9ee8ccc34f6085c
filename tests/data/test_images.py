import cv2
import numpy as np
import pytest

from tests.data.files import write_image
from utils.data.images import place, read_image, resize_exactly
from utils.errors import DatasetError

EXIF_ROTATED = bytes.fromhex(
    "ffe1002245786966000049492a00080000000100120103000100000006000000000000" + "00"
)  # an APP1 segment that says orientation 6: to be shown turned by 90 degrees


def darknet_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """resize_image of image.c, pixel by pixel: scale (W - 1) / (w - 1), first along x, then along y."""
    rows, columns, channels = image.shape
    part = np.zeros((rows, width, channels))
    for x in range(width):
        at = x * (columns - 1) / (width - 1)
        left = min(int(at), columns - 1)
        share = at - left
        part[:, x] = (1 - share) * image[:, left] + share * image[:, min(left + 1, columns - 1)]
    result = np.zeros((height, width, channels))
    for y in range(height):
        at = y * (rows - 1) / (height - 1)
        top = min(int(at), rows - 1)
        share = at - top
        result[y] = (1 - share) * part[top] + share * part[min(top + 1, rows - 1)]
    return result


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(7, 11), (40, 23), (64, 96)])
def test_stretching_is_darknets_resize_image(size):
    image = random_image(31, 47)
    ours = resize_exactly(image, size).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, darknet_resize(image, *size), atol=1e-3)


@pytest.mark.parametrize("height, width", [(30, 60), (60, 30), (50, 50), (1, 300), (37, 53)])
def test_letterbox_is_the_resized_image_in_the_middle_of_grey(height, width):
    image = random_image(height, width)
    size = (64, 96)
    # letterbox_image of image.c, integer division
    if size[1] / width < size[0] / height:
        new_height, new_width = max(1, height * size[1] // width), size[1]
    else:
        new_height, new_width = size[0], max(1, width * size[0] // height)
    top, left = (size[0] - new_height) // 2, (size[1] - new_width) // 2
    expected = np.full((*size, 3), 127.5)
    inner = resize_exactly(image, (new_height, new_width)).permute(1, 2, 0).numpy()
    expected[top : top + new_height, left : left + new_width] = inner
    ours = resize_exactly(image, size, letterbox=True).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, expected.astype(np.float32))


@pytest.mark.parametrize("letterbox", [False, True])
def test_placement_brings_the_image_corners_to_where_the_pixels_lie(letterbox):
    image = np.full((30, 50, 3), 255, np.uint8)
    pixels = resize_exactly(image, (96, 64), letterbox)[0].numpy()
    rows, columns = np.nonzero(pixels == 255)
    placement = place(30, 50, (96, 64), letterbox)
    left, top = placement.offset_x, placement.offset_y
    right, bottom = 50 * placement.scale_x + left, 30 * placement.scale_y + top
    np.testing.assert_allclose(
        [left, top, right, bottom], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    )


def test_images_are_rgb(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.full((4, 4, 3), (0, 0, 200), np.uint8))[1].tobytes())
    assert read_image(path)[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("shape, kind", [((5, 7), np.uint8), ((5, 7, 4), np.uint8), ((5, 7, 3), np.uint16)])
def test_grey_transparent_and_16_bit_images_become_8_bit_rgb(tmp_path, shape, kind):
    path = tmp_path / "ünï 鼠.png"
    path.write_bytes(cv2.imencode(".png", np.ones(shape, kind))[1].tobytes())
    image = read_image(path)
    assert image.shape == (5, 7, 3)
    assert image.dtype == np.uint8


def test_exif_orientation_is_ignored_as_darknet_does(tmp_path):
    plain = write_image(tmp_path / "a.jpg", 20, 30).read_bytes()
    turned = tmp_path / "b.jpg"
    turned.write_bytes(plain[:2] + EXIF_ROTATED + plain[2:])
    assert cv2.imread(str(turned)).shape == (30, 20, 3)  # the segment does what it should
    np.testing.assert_array_equal(read_image(turned), read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_an_error(tmp_path, name, share):
    path = write_image(tmp_path / name, 80, 80)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=name):
        read_image(path)


@pytest.mark.parametrize("content", [b"this is no image", b"\xff\xd8\xff\xe0 \xff\xd9", bytes(100)])
def test_what_is_no_image_is_an_error(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.jpg"):
        read_image(path)
    with pytest.raises(DatasetError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")
