"""docs/results/exports.md: the table of benchmarks/exports.py as Markdown."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

INTRODUCTION = """# Every format and precision, for every stock network and its pruned versions

Made by `python benchmarks/exports.py --page docs/results/exports.md`; figures: `benchmarks/exports.csv`. At
{size}x{size}, batch 1. yolov3-tiny, yolo-fastest-1.1 and MobileNetV2-YOLOv3-Nano have their real weights, the
others random ones with spread-out gammas. *slim*: `slim_prune.py` at 70 %. *layers*: `layer_prune.py`, half
of the residual blocks. A file took its name only after its runtime was compared with torch in float32, but
for the TensorRT engines: of these the ONNX file was compared that they are built from, the engines nowhere.
Made with {versions}.
"""
PARITY = """## Parity

Larger of boxes and scores: largest difference / largest value, from torch in float32. In fp16 and int8 scores
count as at least 0.1. fp32 and fp16 are compared on noise, int8 on an image that it was calibrated with. For
int8 the check is loose: outputs may be 1.5 times as far away as they are large, in root mean squares, so that
even zeros would pass; these files are here to show that they run, and mAP is what judges them. *built*:
TensorRT-RTX built the engine; for want of a GPU it was neither run nor compared. A letter: there is no such
file, the reason is below.
"""
SIZES = "## Megabytes, of all files together\n"
SECONDS = """## Seconds

On one thread of a machine with other work. The fp32 ONNX file that OpenVINO and TensorRT start from counts
where it is made first: under onnx.
"""
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt-rtx-cu13", "ncnn", "pnnx")


@dataclass(frozen=True)
class Row:
    """A line of the CSV file.

    Attributes:
        network: key of NETWORKS.
        version: key of VERSIONS.
        format: as on the command line of export.py.
        precision: fp32, fp16 or int8.
        verdict: "ok", "built" (and not run: no GPU), "none: reason" or "refused: reason".
        boxes: largest difference / largest value, from torch in float32.
        scores: the same.
        bytes: of all files together.
        seconds: that the export took, the ONNX file that it starts from included where that was not there.
    """

    network: str
    version: str
    format: str
    precision: str
    verdict: str
    boxes: float | None = None
    scores: float | None = None
    bytes: int = 0
    seconds: float = 0.0


def page(rows: Sequence[Row], size: int) -> str:
    """The page.

    Args:
        rows: of the CSV file.
        size: height and width of the images.
    """
    reasons: dict[str, str] = {}
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    parts = [INTRODUCTION.format(size=size, versions=versions), PARITY]
    parts += _table(rows, lambda row: _parity(row, reasons))
    parts += ["", SIZES, *_table(rows, lambda row: f"{row.bytes / 1e6:.1f}" if row.bytes else "")]
    parts += ["", SECONDS, *_table(rows, lambda row: f"{row.seconds:.1f}" if row.bytes else "")]
    parts += ["", "## Reasons", "", "| | |", "|---|---|"]
    parts += [f"| {letter} | {reason} |" for reason, letter in reasons.items()]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[str]:
    cells = {(row.network, row.version, row.format, row.precision): cell(row) for row in rows}
    kinds = list(dict.fromkeys(key[2:] for key, text in cells.items() if text))
    titles = ["network", "version", *(f"{name} {precision}" for name, precision in kinds)]
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * len(kinds)}"]
    names = dict.fromkeys((row.network, row.version) for row in rows)
    found = ([*name, *(cells.get((*name, *kind), "") for kind in kinds)] for name in names)
    return lines + [f"| {' | '.join(texts)} |" for texts in found]


def _parity(row: Row, reasons: dict[str, str]) -> str:
    if row.boxes is not None and row.scores is not None:
        return f"{max(row.boxes, row.scores):.1e}"
    if row.verdict == "built":
        return "built"
    reason = re.sub(r"^(refused|none): ", "", row.verdict).replace("; nothing was written", "")
    return reasons.setdefault(reason, chr(97 + len(reasons)))
