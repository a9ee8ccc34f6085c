"""NMS inside an ONNX graph.

Invariant: the only output of the graph is `detections` (M, 7): number of the image in the batch, left, top,
right, bottom in pixels of the input, score, class; all float32, sorted by image, class and falling score.
These are the boxes that `nms.suppress` of kind "default" keeps.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from ..detection.boxes import MOST_CANDIDATES, suppress
from ..errors import ExportError
from ..runtimes.runtime import random_images
from .job import Exporting
from .parity import difference, proto_infer

OUTPUT = "detections"
_TOLERANCE = 1e-5
# minimum number of candidates per image in the comparison, whatever the threshold
_COMPARED = 200


def suppressed(proto: ModelProto, confidence: float, overlap: float) -> ModelProto:
    """A copy of a graph with boxes (B, N, 4) and scores (B, N, classes) that ends in `detections`.

    Args:
        proto: the graph.
        confidence: a box counts for a class with a larger score.
        overlap: a box is removed when its IoU with a better one of its class is larger.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants: dict[str, NDArray[Any]] = {
        "most": np.array([MOST_CANDIDATES], np.int64),
        "overlap": np.array([overlap], np.float32),
        "confidence": np.array([confidence], np.float32),
        "image_and_box": np.array([0, 2], np.int64),
        "only_class": np.array([1], np.int64),
        "only_image": np.array([0], np.int64),
        "last": np.array([-1], np.int64),
    }
    graph.initializer.extend(
        numpy_helper.from_array(array, f"nms_{name}") for name, array in constants.items()
    )
    _node(graph, "Transpose", ["scores"], "by_class", perm=[0, 2, 1])
    limits = ["nms_most", "nms_overlap", "nms_confidence"]
    _node(graph, "NonMaxSuppression", ["boxes", "nms_by_class", *limits], "chosen")  # image, class, box
    _node(graph, "Gather", ["nms_chosen", "nms_image_and_box"], "where", axis=1)
    _node(graph, "GatherND", ["boxes", "nms_where"], "corners")
    _node(graph, "GatherND", ["nms_by_class", "nms_chosen"], "score")
    _node(graph, "Unsqueeze", ["nms_score", "nms_last"], "score_column")
    for name in ("image", "class"):
        _node(graph, "Gather", ["nms_chosen", f"nms_only_{name}"], f"{name}_number", axis=1)
        _node(graph, "Cast", [f"nms_{name}_number"], f"{name}_column", to=TensorProto.FLOAT)
    columns = ["nms_image_column", "nms_corners", "nms_score_column", "nms_class_column"]
    graph.node.append(helper.make_node("Concat", columns, [OUTPUT], name=OUTPUT, axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["detections", 7]))
    return result


def _node(graph: GraphProto, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
    name = f"nms_{output}"
    graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))


def verify_suppression(proto: ModelProto, job: Exporting) -> None:
    """Compare the NMS graph of `proto` with `nms.suppress`, on noise.

    The score threshold is chosen so that 200 boxes of an image pass, since noise may contain no object.

    Raises:
        ExportError: the results differ.
    """
    plain = proto_infer(proto)
    for shape in job.shapes:
        images = random_images(shape)
        boxes, scores = plain(images)
        confidence = float(np.sort(scores[0].ravel())[-min(_COMPARED, scores[0].size)])
        found = proto_infer(suppressed(proto, confidence, job.overlap))(images)[0]
        wanted = expected_detections(boxes, scores, confidence, job.overlap)
        if not difference(found, wanted) <= _TOLERANCE:
            fact = f"keeps {len(found)} boxes, this project's NMS {len(wanted)}, or they differ"
            raise ExportError("onnxruntime's NonMaxSuppression", fact, "leave --nms out")


def expected_detections(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], confidence: float, overlap: float
) -> NDArray[np.float32]:
    """`detections` (M, 7) of boxes (B, N, 4) as xyxy and scores (B, N, classes), by `nms.suppress`."""
    corners, certain = torch.from_numpy(boxes), torch.from_numpy(scores)
    low, high = corners[..., :2], corners[..., 2:]
    predictions = torch.cat(((low + high) / 2, high - low, torch.ones_like(certain[..., :1]), certain), -1)
    rows = []
    for number, prediction in enumerate(predictions):
        kept = suppress(prediction, confidence, overlap)
        kept = kept[kept[:, 5].argsort(stable=True)]
        rows.append(torch.cat((torch.full_like(kept[:, :1], number), kept), dim=1))
    return torch.cat(rows).numpy()
