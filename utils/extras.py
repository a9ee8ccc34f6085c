"""Packages that only a part of the project needs, and the pip line for one that is missing or unfit.

The library for any PyTorch network needs numpy and torch alone; the rest comes with an extra, by name.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType, ModuleType
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .errors import MissingPackageError

# Module -> extra; tests hold it against pyproject.toml.
EXTRAS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("cv2", "faster_coco_eval", "jinja2", "matplotlib", "onnx", "onnxruntime", "onnxslim", "rich",
         "tensorboard", "tqdm"),
        "darknet",
    )
    | dict.fromkeys(("ncnn", "nncf", "openvino", "pnnx", "tensorrt", "tensorrt_rtx"), "export")
)  # fmt: skip


# Module -> what pip calls it, where the names differ.
_REQUIREMENTS: Mapping[str, str] = MappingProxyType(
    {
        "cv2": "'opencv-python-headless<5'",
        "faster_coco_eval": "faster-coco-eval",
        "sklearn": "scikit-learn",
        "tensorrt_rtx": "tensorrt-rtx-cu13",  # for CUDA 13
    }
)


def package(place: str, name: str) -> ModuleType:
    """Import a package that only one part needs.

    Args:
        place: what needs it, such as "ONNX export".
        name: of the module.

    Raises:
        MissingPackageError: it is missing or cannot be loaded; with the line that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        wanted = _REQUIREMENTS.get(top, top)
        fact = f"the package {wanted} is missing"
        if not isinstance(error, ModuleNotFoundError) and str(error) not in ("", name):
            fact = f"the package {wanted} cannot be loaded ({error})"
        raise MissingPackageError(place, fact, f"python -m pip install {wanted}") from error


def explained(error: ImportError) -> MissingPackageError | None:
    """What to do about a failed import; None for one that no extra mends."""
    module = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError):
        if module in EXTRAS:
            return MissingPackageError(module, "not installed", install_line(EXTRAS[module]))
    elif "libGL" in str(error):  # of opencv-python, which other projects bring: it opens windows
        return MissingPackageError("cv2", f"cannot be loaded ({error})", OPENCV_REMEDY)
    return None


# pip keeps both packages in one folder, so that removing one damages the other.
OPENCV_PACKAGES = (
    "opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"
)  # fmt: skip
OPENCV_REMEDY = (
    "pip uninstall -y opencv-python opencv-contrib-python opencv-python-headless, then "
    "pip install 'opencv-python-headless<5'"
)


def install_line(extra: str) -> str:
    """The line that installs an extra of this project, which no package index knows."""
    return f"pip install '{_origin()}[{extra}]'"


def _origin() -> str:
    """The folder or file that this package was installed from, as far as it is known."""
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return str(root)
    try:
        text = distribution((__package__ or "").partition(".")[0]).read_text("direct_url.json")
        url = urlsplit(json.loads(text or "{}").get("url", ""))
    except (PackageNotFoundError, ValueError):
        return "/path/to/clone"
    return url2pathname(url.path) if url.scheme == "file" else "/path/to/clone"
