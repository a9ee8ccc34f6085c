"""Find objects on images, in videos or with a camera, and draw them.

    python detect.py --cfg cfg/my.cfg --weights weights/my.weights --names data/my.names --source shots/
    python detect.py --weights weights/best.pt --data data/my.data --source "shots/*.jpg" --save-txt --json
    python detect.py --weights weights/best.pt --source street.mp4 --conf 0.4
    python detect.py --weights weights/best.pt --source 0 --show
    python detect.py --weights weights/best.onnx --runtime openvino --source shots/

--weights takes exported files too: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .torchscript.
They hold class names, image size and the kind of NMS; for one that does not, add --cfg and --names.

Sources:
    an image; a folder of images; a pattern in quotes; a .txt list of images; a video; the number of a camera
The results are written to runs/detect (--output): each picture under its own name, a video as .mp4; with
--save-txt label files `class x y w h score` (fractions of the image) in its folder `labels`; with --json a
COCO result file (image_id is the number in the file's name, as in COCO, otherwise the position of the image
in the source, from 1; category_id counts from 0). Inputs are never overwritten. Ctrl-C ends a camera's
recording.

Boxes are those of Darknet's `detector test`: images are stretched to the network's input, unless the cfg has
letter_box=1 or --letterbox is given, and the NMS is the cfg's nms_kind. EXIF orientation is ignored as in
Darknet, since labels refer to the pixels as stored.
"""

import statistics
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from ...options import from_arguments
from ...runtimes.detecting import Times
from ..arguments import Parser, add_command, next_command
from ..output import bar, show
from .output import keep_window
from .run import DetectionOptions, DetectionResult, detect


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, detect, print what was found and the next command."""
    parser = Parser(__doc__, "detect")
    add_command(parser, DetectionOptions)
    options = from_arguments(DetectionOptions, parser.parse_args(argv))
    result = detect(options, track=bar, on_image=tqdm.write)
    _print_result(result)
    if options.data or result.files.is_demo:
        next_command("python evaluate.py", result.files.options())
    if options.show:
        keep_window()


def _print_result(result: DetectionResult) -> None:
    for error in result.unreadable:
        print(f"{error}; skipped")
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    for name, count in result.objects.items():
        table.add_row(Text(name), str(count))
    show(f"{len(result.times)} images, {len(result.boxes)} objects", table)
    parts = zip(Times._fields, zip(*result.times, strict=True), strict=True)
    medians = (f"{name} {1000 * statistics.median(seconds):.1f} ms" for name, seconds in parts)
    print("median per image: " + ", ".join(medians))
    if result.unreadable:
        print(f"{len(result.unreadable)} images could not be read and were left out")
    print("written: " + ", ".join(map(str, result.written)))
