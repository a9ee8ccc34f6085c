"""The stock cfgs, which are found in a checkout, an editable installation and a wheel alike."""

from pathlib import Path

STOCK_CFGS = (
    "yolov3-shapes.cfg", "yolov3-spp.cfg", "yolov3-tiny.cfg", "yolov3.cfg", "yolov4-tiny.cfg", "yolov4.cfg",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "cfg", _PACKAGE.parent / "cfg")  # of a wheel; of a checkout


def stock_cfg(path: Path) -> Path | None:
    """The stock cfg that `cfg/NAME` names, wherever the current folder is; None for any other path.

    >>> stock_cfg(Path("cfg/yolov4.cfg")).name, stock_cfg(Path("cfg/my.cfg")), stock_cfg(Path("yolov4.cfg"))
    ('yolov4.cfg', None, None)
    """
    if path.parent != Path("cfg") or path.name not in STOCK_CFGS:
        return None
    return next((folder / path.name for folder in _FOLDERS if (folder / path.name).is_file()), None)
