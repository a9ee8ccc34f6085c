"""Write a network as files for other programs, each compared with the network before it gets its name.

    python export.py --cfg cfg/yolov3-tiny.cfg --weights weights/best.weights
    python export.py --weights weights/best.pt --img_size 320 416 --dynamic batch
    python export.py --weights weights/best.pt --data data/my.data --precision int8 --int8-skip auto

Input:   images  (B, C, H, W)       RGB in 0..1, float32
Outputs: boxes   (B, N, 4)          left, top, right, bottom in pixels of the input, float32
         scores  (B, N, classes)    objectness times class probability, float32
The files lie beside the weights, their stem ending in _fp16 or _int8 with these precisions. Overlapping boxes
are left for their user to suppress. The names of the classes are in a file only if --data is given.

--format       onnx; openvino (.xml, .bin); tensorrt (.engine); ncnn (.ncnn.param, .ncnn.bin; fixed size, no
               int8); torchscript (no int8). Several, with commas between; docs/export.md has what each needs
--target       GPUs of a TensorRT engine, such as SM75,SM86; without, all from SM80 on. An
               engine is compared only where it can run: on a machine with a GPU
--dynamic      what stays open: batch, size or both; otherwise one image of --img_size
--precision    fp16: the network up to its raw heads in float16. int8: its convolutions in int8, with ranges
               from 128 images of the training list. With --data, mAP of fp16 and int8 before and after is
               measured on the valid list. A file that loses more than a point is written, with a warning.
--int8-skip    sections that stay in float, or auto: the fewest of those that harm most alone, until at most a
               point of mAP is lost (auto is not for openvino)
--raw-heads    outputs head_0, head_1, ... (B, anchors, h, w, 5 + classes) before any sigmoid
--nms          ONNX only, one output: detections (M, 7) of number in the batch, left, top, right, bottom,
               score, class; by image, then class, best score first. Needs --opset 13 or newer
"""

from utils.commands.arguments import run_main
from utils.commands.export import export_parser, run_export


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and export."""
    run_export(export_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
