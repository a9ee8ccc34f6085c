"""Detect objects on images, in a video or with a camera, from Python: `detect(DetectionOptions(...))`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ...data.images import read_image
from ...data.listing import read_data_file, read_names
from ...data.sources import find_images, is_video, open_video, write_video
from ...errors import DatasetError, ToolkitError
from ...files import atomic_path, require_writable
from ...options import FRACTION, check_ranges, option
from ...runtimes.detecting import Detector, Facts, Thresholds, Times
from ..arguments import (
    ImageSizeOptions,
    InputFiles,
    InputOptions,
    MachineOptions,
    RuntimeOptions,
    prepare,
    resolve,
)
from ..inputs import open_detecting
from ..output import Track, advancing, untracked
from .output import Picture, Recorder, Window

OUTPUT = Path("runs/detect")


@dataclass(frozen=True)
class DetectionOptions(MachineOptions, ImageSizeOptions, RuntimeOptions, InputOptions):
    """Options of a detection; `data` gives the class names."""

    names: Path | None = option(None, "class names (default: those of --data)", Path, metavar="FILE")
    source: str | None = option(None, "image, folder, pattern, .txt list, video, or number of a camera")
    conf: float = option(Thresholds.confidence, "minimum score", FRACTION)
    nms: float = option(Thresholds.overlap, "maximum overlap (IoU) of two boxes of a class", FRACTION)
    letterbox: bool = option(False, "keep the aspect ratio of images (default: as the cfg says)")
    output: Path = option(OUTPUT, "folder of the results", Path, metavar="DIR")
    save_txt: bool = option(False, "write label files with scores to DIR/labels", flags=("--save-txt",))
    json: Path | None = option(
        None,
        "write all boxes to FILE (without a name: DIR/detections.json)",
        Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
    )
    show: bool = option(False, "show the pictures in a window as well")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DetectionResult:
    """Result of a detection.

    Attributes:
        boxes: all of them as entries of a COCO result file: image_id, file_name, category_id, bbox, score.
        objects: number of boxes of each class that was found, by its name.
        times: of each image or frame.
        unreadable: why images were left out.
        written: folders and files of the results.
        files: the network and the data set.
    """

    boxes: tuple[dict[str, Any], ...]
    objects: dict[str, int]
    times: tuple[Times, ...]
    unreadable: tuple[DatasetError, ...]
    written: tuple[Path, ...]
    files: InputFiles


def detect(
    options: DetectionOptions,
    *,
    track: Track = untracked,
    on_image: Callable[[str], object] | None = None,
) -> DetectionResult:
    """Detect, and write pictures with their boxes to `options.output`.

    Args:
        options: what to detect, on what and where to.
        track: shows the progress, see `Track`.
        on_image: called after each image of several with a line about it: name, objects found, milliseconds.

    Raises:
        ToolkitError: a file cannot be used, no image could be read, or an output would overwrite an input.
    """
    device = prepare(options)
    files = resolve(options, needs=("cfg", "weights"))
    source = options.source or _demo_source(files)
    network = open_detecting(files, device, options.runtime, options.img_size)
    names = _names(options.names, files, network)
    require_writable(options.output, "choose another folder with --output DIR")
    size = options.img_size or network.image_size
    network.try_size(size)
    letterbox = options.letterbox or network.letterbox
    detector = Detector(network, size, Thresholds(options.conf, options.nms), letterbox)
    window = Window() if options.show else None
    recorder = Recorder(names, options.output, save_txt=options.save_txt, window=window)
    unreadable: tuple[DatasetError, ...] = ()
    if is_video(source):
        _detect_video(source, detector, recorder, track)
    else:
        unreadable = _detect_images(source, detector, recorder, track, on_image)
    written = [options.output, *([recorder.labels] if options.save_txt else [])]
    if options.json is not None:
        written.append(options.json if options.json.name else options.output / "detections.json")
        recorder.write_json(written[-1])
    return DetectionResult(
        tuple(recorder.boxes), recorder.objects, tuple(recorder.times), unreadable, tuple(written), files
    )


def _demo_source(files: InputFiles) -> str:
    if not files.is_demo or files.data is None:
        raise ToolkitError(
            "--source", "missing", "give an image, a folder, a video or the number of a camera"
        )
    return str(read_data_file(files.data).valid)


def _names(path: Path | None, files: InputFiles, network: Facts) -> tuple[str, ...]:
    """Class names: those given, or the file's own, or numbers."""
    classes = network.classes
    place = path or files.data
    if place is None:
        return network.names or tuple(f"class {number}" for number in range(classes))
    names = read_names(path) if path else read_data_file(place).names
    if len(names) != classes:
        fact = f"{len(names)} class names, but the network ({network.source}) has {classes} classes"
        raise ToolkitError(place, fact, "give the names that belong to it")
    return names


def _detect_images(
    source: str,
    detector: Detector,
    recorder: Recorder,
    track: Track,
    on_image: Callable[[str], object] | None,
) -> tuple[DatasetError, ...]:
    """Image by image; returns why images were left out."""
    images = find_images(source)
    pairs = list(zip(images, recorder.targets(images), strict=True))
    unreadable: list[DatasetError] = []
    for number, (path, target) in enumerate(track(pairs, "detecting"), start=1):
        try:
            image = read_image(path)
        except DatasetError as error:
            if len(images) == 1:
                raise
            unreadable.append(error)
            continue
        rows, times = detector(image)
        picture = Picture(image, rows, path.name, _image_id(path, number), target.stem)
        if on_image is not None:
            on_image(recorder.line(picture, times))
        recorder.save(picture, times, target)
    if len(unreadable) == len(images):
        raise DatasetError(f"--source {source}", f"none of its {len(images)} images could be read")
    return tuple(unreadable)


def _image_id(path: Path, number: int) -> int:
    """COCO names its images by their id; other images are counted from 1."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else number


def _detect_video(source: str, detector: Detector, recorder: Recorder, track: Track) -> None:
    """Frame by frame; Ctrl-C ends a camera, and interrupts a video, whose file is whole up to there."""
    is_camera = source.isdecimal()
    path = Path(f"camera{source}.mp4" if is_camera else source)
    (target,) = recorder.targets([path.with_suffix(".mp4")], inputs=[path])
    interrupted = False
    with open_video(source) as video, atomic_path(target) as temporary:
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            fact = "has no frame that OpenCV can read"
            raise DatasetError(f"--source {source}", fact, "convert it to mp4")
        with (
            advancing(track, video.length or None, "detecting") as advance,
            write_video(temporary, first.shape[:2], video.rate) as writer,
        ):
            try:
                for number, frame in enumerate(chain([first], frames), start=1):
                    rows, times = detector(frame)
                    stem = f"{target.stem}_{number:06d}"
                    picture = Picture(frame, rows, f"{path.name}:{number}", number, stem)
                    writer.write(recorder.drawn(picture, times)[..., ::-1])
                    advance(1)
            except KeyboardInterrupt:
                interrupted = True
    if interrupted and not is_camera:
        raise KeyboardInterrupt
