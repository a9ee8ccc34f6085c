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

from utils.commands.arguments import run_main
from utils.commands.detect import detect_parser, run_detection


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and detect."""
    run_detection(detect_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
