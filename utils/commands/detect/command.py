"""Find objects on images, in videos or before a camera, and draw them.

    python detect.py --cfg cfg/my.cfg --weights weights/my.weights --names data/my.names --source shots/
    python detect.py --weights weights/best.pt --data data/my.data --source "shots/*.jpg" --save-txt --json
    python detect.py --weights weights/best.pt --source street.mp4 --conf 0.4
    python detect.py --weights weights/best.pt --source 0 --show
    python detect.py --weights weights/best.onnx --runtime openvino --source shots/

--weights takes exported files too: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .torchscript.
They carry names, image size and the way of suppression; for one that does not, add --cfg and --names.

Sources:
    an image; a folder of images; a pattern in quotes; a .txt list of images; a video; the number of a camera
The results are written to runs/detect (--output): each picture under its own name, a video as .mp4; with
--save-txt label files `class x y w h score` (fractions of the image) in its folder `labels`; with --json a
COCO result file (image_id is the number in the file's name, as COCO has it, else the image's place in the
source, from 1; category_id counts from 0). Inputs are never overwritten. Ctrl-C ends a camera's recording.

Boxes are those of Darknet's `detector test`: images are stretched to the network's input, unless the cfg has
letter_box=1 or --letterbox is given, and suppressed as the cfg's nms_kind says. Rotation marks of cameras
(EXIF) are ignored as Darknet does, since labels count in stored pixels.
"""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from ...data.images import read_image
from ...data.listing import read_data_file, read_names
from ...data.sources import find_images, is_video, open_video, write_video
from ...errors import DatasetError, ToolkitError
from ...files import atomic_path, require_writable
from ...options import FRACTION
from ...runtimes.detecting import Facts
from ..arguments import (
    Parser,
    Project,
    add_common,
    add_data,
    add_image_size,
    add_network,
    add_runtime,
    next_command,
    prepare,
    resolve,
)
from ..detector import Detector, Thresholds
from ..inputs import open_detecting
from .output import Picture, Recorder, Window

OUTPUT = Path("runs/detect")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_detection(detect_parser().parse_args(argv))


def detect_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "detect")
    add_network(parser)
    add_runtime(parser)
    add_data(parser)
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names (default: those of --data)")
    parser.add_argument("--source", help="image, folder, pattern, .txt list, video, or number of a camera")
    add_image_size(parser)
    parser.add_argument("--conf", type=FRACTION, default=Thresholds.confidence, help="least score")
    parser.add_argument("--nms", type=FRACTION, default=Thresholds.overlap, help="largest overlap in a class")
    parser.add_argument("--letterbox", action="store_true", help="keep the aspect (default: as the cfg says)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of the results")
    parser.add_argument("--save-txt", action="store_true", help="label files with scores, DIR/labels")
    parser.add_argument(
        "--json", nargs="?", type=Path, const=Path(), metavar="FILE", help="all boxes, DIR/detections.json"
    )
    parser.add_argument("--show", action="store_true", help="show the pictures in a window as well")
    add_common(parser)
    return parser


def run_detection(args: argparse.Namespace) -> None:
    """Detect as the command line says.

    Raises:
        ToolkitError: a file cannot be used, no image could be read, or an output would overwrite an input.
    """
    device = prepare(args)
    project = resolve(args, needs=("cfg", "weights"))
    source = args.source or _demo_source(project)
    network = open_detecting(project, device, args.runtime, args.img_size)
    names = _names(args.names, project, network)
    require_writable(args.output, "choose another folder with --output DIR")
    size = args.img_size or network.image_size
    network.try_size(size)
    letterbox = args.letterbox or network.letterbox
    detector = Detector(network, size, Thresholds(args.conf, args.nms), letterbox)
    window = Window() if args.show else None
    recorder = Recorder(names, args.output, save_txt=args.save_txt, window=window)
    detect = _detect_video if is_video(source) else _detect_images
    detect(source, detector, recorder)
    recorder.finish(args.json and (args.json if args.json.name else args.output / "detections.json"))
    if args.data or project.is_demo:
        next_command("python evaluate.py", project.options())
    if window:
        window.wait()


def _demo_source(project: Project) -> str:
    if not project.is_demo or project.data is None:
        raise ToolkitError(
            "--source", "missing", "give an image, a folder, a video or the number of a camera"
        )
    return str(read_data_file(project.data).valid)


def _names(path: Path | None, project: Project, network: Facts) -> tuple[str, ...]:
    """Class names: those given, or the file's own, or numbers."""
    classes = network.classes
    place = path or project.data
    if place is None:
        return network.names or tuple(f"class {number}" for number in range(classes))
    names = read_names(path) if path else read_data_file(place).names
    if len(names) != classes:
        fact = f"{len(names)} class names, but the network ({network.source}) has {classes} classes"
        raise ToolkitError(place, fact, "give the names that belong to it")
    return names


def _detect_images(source: str, detector: Detector, recorder: Recorder) -> None:
    images = find_images(source)
    targets = recorder.targets(images)
    unreadable: list[DatasetError] = []
    with tqdm(total=len(images), unit="image", leave=False, disable=None if len(images) > 1 else True) as bar:
        for number, (path, target) in enumerate(zip(images, targets, strict=True), start=1):
            try:
                image = read_image(path)
            except DatasetError as error:
                if len(images) == 1:
                    raise
                unreadable.append(error)
                bar.write(f"{error}; skipped")
                continue
            finally:
                bar.update()
            rows, times = detector(image)
            picture = Picture(image, rows, path.name, _image_id(path, number), target.stem)
            bar.write(recorder.line(picture, times))
            recorder.save(picture, times, target)
    if len(unreadable) == len(images):
        raise DatasetError(f"--source {source}", f"none of its {len(images)} images could be read")
    recorder.skipped = len(unreadable)


def _image_id(path: Path, number: int) -> int:
    """COCO names its images by their id; other images are counted from 1."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else number


def _detect_video(source: str, detector: Detector, recorder: Recorder) -> None:
    """Frame by frame; Ctrl-C ends a camera, and breaks off a video, whose file is whole up to there."""
    is_camera = source.isdecimal()
    path = Path(f"camera{source}.mp4" if is_camera else source)
    (target,) = recorder.targets([path.with_suffix(".mp4")], inputs=[path])
    interrupted = False
    with open_video(source) as video, atomic_path(target) as temporary:
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            raise DatasetError(
                f"--source {source}", "holds no frame that OpenCV can read", "convert it to mp4"
            )
        bar = tqdm(total=video.length or None, unit="frame", leave=False, disable=None)
        with bar, write_video(temporary, first.shape[:2], video.rate) as writer:
            try:
                for number, frame in enumerate(chain([first], frames), start=1):
                    rows, times = detector(frame)
                    stem = f"{target.stem}_{number:06d}"
                    picture = Picture(frame, rows, f"{path.name}:{number}", number, stem)
                    writer.write(recorder.drawn(picture, times)[..., ::-1])
                    bar.update()
            except KeyboardInterrupt:
                interrupted = True
    if interrupted and not is_camera:
        raise KeyboardInterrupt
