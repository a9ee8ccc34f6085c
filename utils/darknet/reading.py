"""Typed sections from the options of a cfg: defaults, checks, refusals.

Where Darknet silently uses something else (an unknown activation becomes ReLU, a word becomes 0, an unknown
section an empty one), this raises an error, so that no result is silently wrong.
A new section type is one dataclass in `sections` and one function in `READERS`.
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import UnsupportedSectionError
from . import sections
from .cfg import Options
from .heads import GaussianYolo, Head, Region, Yolo
from .sections import Section

ACTIVATIONS = (
    *("linear", "leaky", "relu", "mish", "swish", "logistic", "tanh"),
    *("elu", "selu", "gelu", "relu6", "hard_mish", "relie"),
)
# Known to Darknet, but not used by any detector of the family.
_REFUSED_ACTIVATIONS = (
    *("ramp", "loggy", "plse", "stair", "hardtan", "lhtan", "revleaky"),
    *("normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval"),
)
# They change what a convolution computes or what is in the weights file.
_REFUSED_CONVOLUTION_OPTIONS = (
    *("xnor", "binary", "bin_output", "antialiasing", "flipped", "deform", "rotate", "stretch", "sway"),
    *("stretch_sway", "dontload", "dontloadscales"),
)
_RECURRENT = "its output depends on earlier images, and this project computes single images"
_CLASSIFIER = "it is used to train classifiers, and this project computes detectors"
# Unsupported sections of Darknet, each with the reason.
_REFUSED_SECTIONS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("crnn", "rnn", "gru", "lstm", "conv_lstm", "history"), _RECURRENT)
    | dict.fromkeys(("cost", "crop"), _CLASSIFIER)
    | dict.fromkeys(
        ("implicit", "implicit_add", "implicit_mul", "shift_channels", "control_channels"),
        "implicit layers are from another fork, and programs disagree on them",
    )
    | {
        "contrastive": "it trains embeddings for tracking, and this project computes boxes",
        "detection": "YOLOv1 reads its boxes from a connected layer of fixed size",
        "local": "its weights differ between cells",
        "deconvolutional": "no detector of the Darknet family uses it",
        "normalization": "no detector of the Darknet family uses it",
    }
)


NMS_KINDS = ("default", "greedynms", "diounms")
# Far above every stock cfg's; the arithmetic of a window grows with its square.
MOST_WINDOW = 256

Reader = Callable[[Options], Section]
Anchors = tuple[tuple[float, float], ...]


def read_section(options: Options) -> Section:
    """The typed section of one block.

    Raises:
        UnsupportedSectionError: its kind or one of its options is not supported.
        CfgError: a value is wrong.
    """
    kind = options.section.kind
    if kind in _REFUSED_SECTIONS:
        remedy = f"{_REFUSED_SECTIONS[kind]}; use a network without it"
        options.fail(None, "unsupported section", remedy, UnsupportedSectionError)
    if kind not in READERS:
        close = difflib.get_close_matches(kind, READERS, n=1)
        remedy = f"did you mean [{close[0]}]?" if close else f"use one of {', '.join(READERS)}"
        options.fail(None, "unknown section", remedy, UnsupportedSectionError)
    section = READERS[kind](options)
    options.warn_of_typos()
    return section


def _convolutional(options: Options) -> Section:
    options.refuse(_REFUSED_CONVOLUTION_OPTIONS)
    size = options.integer("size", 1, least=1, most=MOST_WINDOW)
    # `pad` overrides `padding`; a 1x1 kernel is never dilated (make_convolutional_layer).
    padding = options.integer("padding", 0, least=0, most=MOST_WINDOW)
    padding = size // 2 if options.flag("pad") else padding
    dilation = options.integer("dilation", 1, least=1, most=MOST_WINDOW) if size > 1 else 1
    # Darknet's output size leaves dilation out, and a padded 1x1 kernel makes it read outside its buffer.
    if (dilation > 1 and size != 2 * padding + 1) or (size == 1 and padding):
        key = "dilation" if dilation > 1 else "padding"
        remedy = "use pad=1 and an odd size"
        options.fail(key, "is not well defined with this padding", remedy, UnsupportedSectionError)
    shares = "share_index" in options.section.options
    return sections.Convolutional(
        filters=options.integer("filters", 1, least=1),
        size=size,
        stride=_strides(options),
        padding=padding,
        dilation=dilation,
        groups=options.integer("groups", 1, least=1),
        batch_normalize=options.flag("batch_normalize") or options.flag("cbn"),
        activation=_activation(options, "logistic"),
        shared_with=_one_reference(options, "share_index") if shares else None,
        **_common(options),
    )


def _connected(options: Options) -> Section:
    return sections.Connected(
        output=options.integer("output", 1, least=1),
        batch_normalize=options.flag("batch_normalize"),
        activation=_activation(options, "logistic"),
        **_common(options),
    )


def _batchnorm(options: Options) -> Section:
    return sections.BatchNorm(**_common(options))


def _activation_alone(options: Options) -> Section:
    return sections.Activation(activation=_activation(options, "linear"), **_common(options))


def _shortcut(options: Options) -> Section:
    weights_type = options.choice("weights_type", "none", ("none", "per_feature", "per_layer", "per_channel"))
    normalization = options.choice("weights_normalization", "none", ("none", "relu", "avg_relu", "softmax"))
    if weights_type != "none" and normalization == "none":
        options.fail("weights_type", "needs weights_normalization", "use relu or softmax")
    return sections.Shortcut(
        activation=_activation(options, "linear"),
        weights_type="per_feature" if weights_type == "per_layer" else weights_type,
        weights_normalization="relu" if normalization == "avg_relu" else normalization,
        **_common(options, (options.index - 1, *_references(options, "from"))),
    )


def _route(options: Options) -> Section:
    groups = options.integer("groups", 1, least=1)
    group_id = options.integer("group_id", 0, least=0)
    if group_id >= groups:
        options.fail("group_id", f"is not below groups={groups}", f"use 0 .. {groups - 1}")
    return sections.Route(
        groups=groups, group_id=group_id, **_common(options, _references(options, "layers"))
    )


def _scale_channels(options: Options) -> Section:
    return sections.ScaleChannels(
        activation=_activation(options, "linear"),
        scale_wh=options.flag("scale_wh"),
        **_common(options, (options.index - 1, _one_reference(options, "from"))),
    )


def _sam(options: Options) -> Section:
    sources = (options.index - 1, _one_reference(options, "from"))
    return sections.Sam(activation=_activation(options, "linear"), **_common(options, sources))


def _pool(kind: type[sections.Pool]) -> Reader:
    def read(options: Options) -> Section:
        options.refuse(("maxpool_depth", "out_channels", "antialiasing", "maxpool_zero_nonmax"))
        size = options.integer("size", options.integer("stride", 1, least=1), least=1, most=MOST_WINDOW)
        padding = options.integer("padding", size - 1, least=0)
        if padding > size - 1:
            options.fail("padding", "puts windows entirely outside the map", f"use at most {size - 1}")
        return kind(size=size, stride=_strides(options), padding=padding, **_common(options))

    return read


def _avgpool(options: Options) -> Section:
    return sections.Avgpool(**_common(options))


def _upsample(options: Options) -> Section:
    stride = options.integer("stride", 2)
    if stride == 0:
        options.fail("stride", "is zero", "use 2 to double the size")
    return sections.Upsample(stride=stride, scale=options.number("scale", 1.0), **_common(options))


def _reorg(kind: type[sections.Reorg3d]) -> Reader:
    def read(options: Options) -> Section:
        options.refuse(("reverse",))
        return kind(stride=options.integer("stride", 1, least=1), **_common(options))

    return read


def _dropout(options: Options) -> Section:
    probability = options.number("probability", 0.2)
    if not 0 <= probability < 1:
        options.fail("probability", "is out of range", "use a number in [0, 1)")
    return sections.Dropout(probability=probability, **_common(options))


def _empty(options: Options) -> Section:
    return sections.Empty(**_common(options))


def _softmax(options: Options) -> Section:
    options.refuse(("tree",), "its classes form a tree")
    temperature = options.number("temperature", 1.0)
    if temperature <= 0:
        options.fail("temperature", "is not positive", "use 1")
    return sections.Softmax(
        groups=options.integer("groups", 1, least=1),
        temperature=temperature,
        spatial=options.number("spatial", 0.0) != 0,
        **_common(options),
    )


def _yolo(options: Options) -> Head:
    options.refuse(("embedding_layer",))
    return _masked_head(Yolo, options)


def _gaussian_yolo(options: Options) -> Head:
    if options.choice("yolo_point", "center", ("center", "left_top", "right_bottom")) != "center":
        options.refuse(("yolo_point",), "boxes are read by their centres")
    return _masked_head(GaussianYolo, options)


def _masked_head(kind: type[Head], options: Options) -> Head:
    anchors = _anchors(options)
    mask = options.integers("mask") or tuple(range(_count(options, anchors, default=1)))
    if not all(0 <= number < len(anchors) for number in mask):
        fact = f"does not fit the {len(anchors)} anchors"
        options.fail("mask", fact, f"anchors are counted 0 .. {len(anchors) - 1}")
    return kind(
        sources=(options.index - 1,),
        line=options.section.line,
        options=options.section.options,
        mask=mask,
        anchors=anchors,
        classes=options.integer("classes", 20, least=1),
        scale_x_y=options.number("scale_x_y", 1.0),
        new_coords=kind is Yolo and options.flag("new_coords"),
        nms_kind=options.choice("nms_kind", "default", NMS_KINDS),
        beta_nms=options.number("beta_nms", 0.6),
        ignore_thresh=options.number("ignore_thresh", 0.5),
    )


def _region(options: Options) -> Head:
    options.refuse(("tree",), "its classes form a tree (YOLO9000)")
    if options.integer("coords", 4) != 4:
        options.fail("coords", "is not supported", "a box has 4")
    if not options.flag("softmax"):
        # Without it Darknet uses the raw values of the classes, which are not probabilities.
        options.fail("softmax", "is not set, so class scores would not be probabilities", "write softmax=1")
    anchors = _anchors(options)
    return Region(
        sources=(options.index - 1,),
        line=options.section.line,
        options=options.section.options,
        mask=tuple(range(_count(options, anchors, default=1))),
        anchors=anchors,
        classes=options.integer("classes", 20, least=1),
        ignore_thresh=options.number("thresh", 0.5),
    )


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "convolutional": _convolutional,
        "connected": _connected,
        "batchnorm": _batchnorm,
        "activation": _activation_alone,
        "shortcut": _shortcut,
        "route": _route,
        "scale_channels": _scale_channels,
        "sam": _sam,
        "maxpool": _pool(sections.Maxpool),
        "local_avgpool": _pool(sections.LocalAvgpool),
        "avgpool": _avgpool,
        "upsample": _upsample,
        "reorg": _reorg(sections.Reorg),
        "reorg3d": _reorg(sections.Reorg3d),
        "dropout": _dropout,
        "empty": _empty,
        "softmax": _softmax,
        "yolo": _yolo,
        "Gaussian_yolo": _gaussian_yolo,
        "region": _region,
    }
)


def _common(options: Options, sources: tuple[int, ...] | None = None) -> dict[str, Any]:
    sources = sources or (options.index - 1,)
    return {"sources": sources, "line": options.section.line, "options": options.section.options}


def _references(options: Options, key: str) -> tuple[int, ...]:
    """Absolute section numbers; a negative one counts back from this section (parse_route in parser.c)."""
    index, references = options.index, options.integers(key)
    if not references:
        options.fail(None, f"{key}= is missing", f"write {key}=-1 for the section before it")
    for reference in references:
        if not -index <= reference < index:
            where = "before the first section" if reference < 0 else "at or after this section"
            remedy = f"use -{index} .. -1 or 0 .. {index - 1}" if index else "put a section before it"
            options.fail(key, f"points {where}", remedy)
    return tuple(index + reference if reference < 0 else reference for reference in references)


def _one_reference(options: Options, key: str) -> int:
    references = _references(options, key)
    if len(references) != 1:
        options.fail(key, "names several sections", "give one")
    return references[0]


def _strides(options: Options) -> tuple[int, int]:
    stride = options.integer("stride", 1, least=1)
    return options.integer("stride_y", stride, least=1), options.integer("stride_x", stride, least=1)


def _activation(options: Options, default: str) -> str:
    if options.text("activation", default) in _REFUSED_ACTIVATIONS:
        remedy = f"use one of {', '.join(ACTIVATIONS)}"
        options.fail("activation", "is not supported", remedy, UnsupportedSectionError)
    return options.choice("activation", default, ACTIVATIONS)


def _anchors(options: Options) -> Anchors:
    values = options.numbers("anchors")
    if not values:
        options.fail(None, "anchors= is missing", "give width,height pairs")
    if len(values) % 2:
        options.fail("anchors", f"has {len(values)} numbers", "give width,height pairs")
    if min(values) <= 0:
        options.fail("anchors", "has a size that is not positive", "give sizes above 0")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _count(options: Options, anchors: Anchors, default: int) -> int:
    """`num`, the number of anchors that count."""
    count = options.integer("num", default, least=1)
    if count > len(anchors):
        fact = f"does not fit the {len(anchors)} anchors"
        options.fail("num", fact, f"use at most {len(anchors)}, or give more anchors")
    return count
