"""Files made to do harm: none is obeyed, and nothing is written where it was not asked for."""

import ast
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate as evaluate_script
import train as train_script
from tests.training.tiny import write_cfg
from utils.darknet.checkpoint import load_weights, read_checkpoint, save_weights
from utils.darknet.model import Darknet
from utils.data.images import read_image
from utils.data.shapes import make_shapes
from utils.errors import DatasetError, WeightsError

ROOT = Path(__file__).resolve().parents[2]


class Payload:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["top", "model", "training", "old format", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, place):
    mark, path = tmp_path / "mark", tmp_path / "evil.pt"
    payload = Payload(mark)
    content = {"model": {"layers.0.conv.weight": torch.ones(1)}, "cfg": "[net]", "training": {}}
    if place == "top":
        content = payload
    elif place in ("model", "training"):
        content[place] = {"x": payload}
    else:
        content["x"] = payload
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=place != "old format")
    with pytest.raises(WeightsError, match=r"evil\.pt: "):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_zip_that_is_no_checkpoint_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
        archive.writestr("archive/version", "3")
    with pytest.raises(WeightsError, match=r"x\.pt: "):
        load_weights(Darknet.from_cfg(ROOT / "tests/cfgs/upsample.cfg"), tmp_path / "x.pt")


def calls(path: Path) -> list[ast.Call]:
    return [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", sorted([*(ROOT / "utils").rglob("*.py"), *ROOT.glob("*.py")]), ids=str)
def test_nothing_that_is_read_can_run(path):
    for call in calls(path):
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"), name
        assert given.get("allow_pickle", "False") == "False"
        assert given.get("shell", "False") == "False"
        if name in ("torch.load", "load_state_dict_from_file"):
            assert given.get("weights_only") == "True"


def png_claiming(width: int, height: int) -> bytes:
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000)])
def test_a_header_that_claims_too_much_is_refused_unread(tmp_path, size, monkeypatch):
    """Also in a program without the limit that the commands set for OpenCV."""
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS", raising=False)
    (tmp_path / "bomb.png").write_bytes(png_claiming(*size))
    with pytest.raises(DatasetError, match=rf"bomb\.png: has {size[0]}x{size[1]} pixels, above the limit"):
        read_image(tmp_path / "bomb.png")


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("suffix", "image", "expected"),
    [
        (".png", GREY, np.repeat(GREY[..., None], 3, 2)),
        (".png", GREY.astype(np.uint16) * 257, np.repeat(GREY[..., None], 3, 2)),
        (".png", np.dstack((GREY, GREY + 1, GREY + 2, GREY * 0)), np.dstack((GREY + 2, GREY + 1, GREY))),
        (".tiff", np.dstack((GREY, GREY + 1, GREY + 2)), np.dstack((GREY + 2, GREY + 1, GREY))),
        (".bmp", np.dstack((GREY, GREY + 1, GREY + 2)), np.dstack((GREY + 2, GREY + 1, GREY))),
    ],
    ids=["grey", "16 bits", "alpha", "tiff", "bmp"],
)
def test_every_form_becomes_three_bytes_a_pixel(tmp_path, suffix, image, expected):
    path = tmp_path / f"wrong.jpg{'' if suffix == '.bmp' else suffix}"  # the suffix decides nothing
    path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    assert np.array_equal(read_image(path), expected)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [np.full((8, 9, 3), value, np.uint8) for value in (40, 200)]
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100, 100]
    assert cv2.imwriteanimation(str(tmp_path / "two.png"), animation)
    image = read_image(tmp_path / "two.png")
    assert image.shape == (8, 9, 3)
    assert abs(int(image.mean()) - 40) < 3


def everything_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_paths_that_leave_the_lists_folder_are_read_but_never_written(tmp_path, monkeypatch):
    """Images elsewhere, named by `..` and absolute; a training and an evaluation leave them as they are."""
    elsewhere = tmp_path / "elsewhere"
    make_shapes(elsewhere, sizes={"train": 4, "valid": 2})
    here = tmp_path / "here"
    (here / "lists").mkdir(parents=True)
    (here / "own.names").write_text((elsewhere / "shapes.names").read_text())
    for split in ("train", "valid"):
        images = sorted((elsewhere / "shapes/images").glob(f"{split}_*.jpg"))
        lines = [str(images[0]), *(f"../../elsewhere/shapes/images/{path.name}" for path in images[1:])]
        (here / f"lists/{split}.txt").write_text("\n".join(lines))
    (here / "own.data").write_text(
        "classes=4\nnames=own.names\ntrain=lists/train.txt\nvalid=lists/valid.txt\n"
    )
    cfg = write_cfg(here / "tiny.cfg")
    before = everything_below(tmp_path)
    monkeypatch.chdir(here)
    words = ["--cfg", str(cfg), "--data", "own.data", "--epochs", "1", "--batch-size", "2", "--workers", "0"]
    train_script.main([*words, "--output", str(tmp_path / "out")])
    weights = ["--weights", str(tmp_path / "out/best.pt"), "--workers", "0"]
    evaluate_script.main([*weights, "--data", "own.data", "--json", str(tmp_path / "out/x.json")])
    after = everything_below(tmp_path)
    assert {path: after[path] for path in before} == before
    assert all(path.startswith(str(tmp_path / "out")) for path in after.keys() - before.keys())


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    model = Darknet.from_cfg(ROOT / "tests/cfgs/upsample.cfg")
    save_weights(model, tmp_path / "x.weights")
    data = (tmp_path / "x.weights").read_bytes()
    (tmp_path / "x.weights").write_bytes(data[:-3])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError):
        load_weights(model, tmp_path / "x.weights")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
