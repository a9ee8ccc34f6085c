"""Compatibility of a cfg with other programs: Darknet, OpenCV 4's importer, ONNX, TensorRT.

Idea: one function for each program, from a `Network` to its obstacles, section by section. OpenCV is the one
to watch: its importer silently ignores options it does not know, so the network runs and is wrong. A test
compares every claim about it with cv2.dnn.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import Finding, Severity
from .cfg import RawSection, parse_cfg
from .heads import Head, Region
from .network import Network
from .sections import (
    Connected,
    Convolutional,
    Pool,
    Route,
    ScaleChannels,
    Section,
    Shortcut,
    Softmax,
    Upsample,
)

Effect = Literal["refuses", "reads wrongly", "untried", "note"]

OPENCV_SECTIONS = frozenset(
    {
        *("convolutional", "connected", "maxpool", "avgpool", "softmax", "route", "dropout", "reorg"),
        *("region", "yolo", "shortcut", "scale_channels", "sam", "upsample"),
    }
)
OPENCV_ACTIVATIONS = frozenset({"linear", "leaky", "relu", "mish", "swish", "logistic", "tanh"})
# Scores not above it are set to 0; a [yolo] or [region] section can say otherwise with thresh=.
OPENCV_LEAST_SCORE = 0.2
# Of the keys that `Network.to_cfg` always writes; without one of the others OpenCV refuses the section.
_OPENCV_DEFAULTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("convolutional", "activation"): "linear",
        ("maxpool", "size"): "2",
        ("maxpool", "stride"): "2",
        ("upsample", "stride"): "1",
    }
)
_REMARK = re.compile(r"[#;].*")
_USE_ONNX = "export it (export.py) and use onnxruntime there"


@dataclass(frozen=True)
class RuntimeFinding(Finding):
    """A finding about a section, or the network, in one program.

    Attributes:
        runtime: name of the program, a key of `RUNTIMES`.
        effect: "refuses" to load it; "reads wrongly": loads it, then computes something else or fails while
            running; "untried": could not be checked here; "note": accepted, with a remark.
        section: its number, None for the whole network.
    """

    runtime: str = ""
    effect: Effect = "note"
    section: int | None = None


Objection = tuple[Effect, str]


def opencv_findings(network: Network) -> tuple[RuntimeFinding, ...]:
    """Sections that cv2.dnn (OpenCV 4) refuses or reads wrongly in the cfg written by `network.to_cfg()`.

    >>> text = "[net]\\nwidth=8\\nheight=8\\nchannels=3\\n[conv]\\nactivation=gelu\\n[upsample]\\nscale=2"
    >>> [(finding.section, finding.effect) for finding in opencv_findings(Network.from_text(text))]
    [(0, 'refuses'), (1, 'reads wrongly')]
    """
    return tuple(
        _finding("OpenCV 4", network, index, effect, fact, _USE_ONNX)
        for index, section in enumerate(network.sections)
        for effect, fact in _opencv_objections(network, index, section)
    )


def _opencv_objections(network: Network, index: int, section: Section) -> Iterator[Objection]:
    if section.kind not in OPENCV_SECTIONS:
        yield "refuses", f"unsupported section [{section.kind}]"
        return
    activation = getattr(section, "activation", "linear")
    if activation not in OPENCV_ACTIVATIONS:
        yield "refuses", f"unsupported activation={activation}"
    match section:
        case Convolutional():
            yield from _opencv_convolution(section)
        case Pool():
            yield from _opencv_strides(section, section.stride)
        case Connected():
            yield from _opencv_connected(network, index, section)
        case Shortcut():
            if len(section.sources) > 2:
                yield "reads wrongly", "only the first of several from= is added"
            if section.weights_type != "none":
                yield "reads wrongly", "weights_type is ignored, and the weights after it are shifted"
        case Route():
            if section.groups > 1 and len(section.sources) > 1:
                yield "reads wrongly", "groups= of a route with several layers is ignored"
        case ScaleChannels():
            if section.scale_wh:
                yield "reads wrongly", "scale_wh is ignored"
        case Upsample():
            if section.stride < 0 or section.scale != 1:
                yield "reads wrongly", "scale= and a negative stride are ignored"
        case Softmax():
            yield from _opencv_softmax(network, index, section)
        case Head():
            count = int(section.options.get("num", len(section.anchors)))
            if count != len(section.anchors):
                yield "refuses", f"num={count} is not the number of anchors, {len(section.anchors)}"


def _opencv_convolution(section: Convolutional) -> Iterator[Objection]:
    if section.shared_with is not None:
        yield "reads wrongly", "share_index is ignored, and the weights after it are shifted"
    if section.dilation > 1:
        yield "reads wrongly", "dilation is ignored"
    if section.batch_normalize and section.options.get("batch_normalize") != "1":
        yield "reads wrongly", "a batch norm not written as batch_normalize=1 is ignored"
    yield from _opencv_strides(section, section.stride)


def _opencv_strides(section: Section, stride: tuple[int, int]) -> Iterator[Objection]:
    common = int(section.options.get("stride", 1))
    if stride != (common, common):
        yield "reads wrongly", "stride_x and stride_y are ignored"


def _opencv_connected(network: Network, index: int, section: Connected) -> Iterator[Objection]:
    if section.batch_normalize:
        yield "reads wrongly", "its batch norm is read before its weights, Darknet writes it after them"
    if not all(isinstance(network[reader], Connected | ScaleChannels) for reader in network.readers(index)):
        yield "reads wrongly", "its output has no height and width there, so sections that read it fail"


def _opencv_softmax(network: Network, index: int, section: Softmax) -> Iterator[Objection]:
    _, height, width = network.shape(index)
    if section.groups > 1:
        yield "refuses", f"groups={section.groups} is not implemented"
    elif section.temperature != 1:
        yield "reads wrongly", "temperature is ignored"
    elif not section.spatial and height * width > 1:
        yield "reads wrongly", "softmax is taken over the channels of each cell, not over all values"


def opencv_text_findings(text: str, network: Network) -> tuple[RuntimeFinding, ...]:
    """Options that OpenCV reads wrongly in the cfg as the user wrote it, though not in `to_cfg()`.

    If a key is written twice it uses the last, Darknet the first; it does not know section aliases, and has
    other defaults.

    Args:
        text: the cfg file.
        network: read from it.
    """
    seen = _as_opencv_reads(text)
    strict = parse_cfg(network.to_cfg(), network.source)
    return tuple(
        _finding("OpenCV 4", network, index - 1, effect, fact, "write the option once, as Darknet reads it")
        for index, (theirs, ours) in enumerate(zip(seen, strict, strict=True))
        if index > 0
        for effect, fact in _differences(theirs, ours)
    )


def _as_opencv_reads(text: str) -> list[RawSection]:
    sections: list[tuple[str, dict[str, str]]] = []
    for line in text.lstrip("\ufeff").splitlines():
        line = "".join(line.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            sections.append((line[1 : line.find("]")], {}))
        elif sections:
            key, _, value = line.partition("=")
            sections[-1][1][key] = value
    return [RawSection(kind, options) for kind, options in sections]


def _differences(theirs: RawSection, ours: RawSection) -> Iterator[Objection]:
    if theirs.kind != ours.kind:
        yield "refuses", f"unknown section name [{theirs.kind}], write [{ours.kind}]"
    for key, value in ours.options.items():
        found = theirs.options.get(key)
        default = _OPENCV_DEFAULTS.get((ours.kind, key))
        if found is None and default is None:
            yield "refuses", f"{key}= is missing"
        elif found is None and default != value:
            yield "reads wrongly", f"{key}= is missing; it uses {default}, Darknet {value}"
        elif found is not None and _REMARK.sub("", found) != value:
            yield "reads wrongly", f"{key}= is written twice; it uses {found}, Darknet {value}"


def darknet_findings(network: Network) -> tuple[RuntimeFinding, ...]:
    """Sections that the C program (AlexeyAB's) computes wrongly; it can load every `Network`."""
    return tuple(
        _finding(
            "Darknet",
            network,
            index,
            "reads wrongly",
            f"assumes that #{source} is as wide as its input, which is wider: it reads past its end",
            "make both summands equally wide",
        )
        for index, section in enumerate(network.sections)
        if isinstance(section, Shortcut)
        for source in section.sources[1:]
        if _is_read_past_its_end(network, source, index)
    )


def _is_read_past_its_end(network: Network, source: int, shortcut: int) -> bool:
    """Whether parse_shortcut and shortcut_cpu go wrong: they use the sizes of the source's *input*."""
    wanted = network.shape(network.sources(shortcut)[0])
    if source < 0 or network.channels(source) >= wanted.channels:
        return False
    return network.shape(network.sources(source)[0]) == wanted


def onnx_findings(network: Network) -> tuple[RuntimeFinding, ...]:
    """Obstacles to an ONNX export; every section type has its ONNX operators."""
    findings = []
    if not network.heads:
        fact = "has no detection head, so no boxes can be exported"
        findings.append(_whole("ONNX", network, "refuses", fact, "give the cfg of a detector"))
    connected = [index for index, section in enumerate(network.sections) if isinstance(section, Connected)]
    if connected:
        fact = "fixes the size of the image, so --dynamic is refused"
        findings.append(_finding("ONNX", network, connected[0], "note", fact, "export without --dynamic"))
    return tuple(findings)


def tensorrt_findings(network: Network) -> tuple[RuntimeFinding, ...]:
    """Obstacles to TensorRT: those of the ONNX file; more is unknown without a GPU."""
    obstacles = [finding for finding in onnx_findings(network) if finding.effect == "refuses"]
    if obstacles:
        return tuple(
            _whole("TensorRT", network, "refuses", "no ONNX file can be made to build from", finding.remedy)
            for finding in obstacles
        )
    fact = "builds from the ONNX file, which this project checks under onnxruntime only"
    return (_whole("TensorRT", network, "untried", fact, "compare the outputs on the machine with the GPU"),)


def opencv_notes(network: Network) -> tuple[RuntimeFinding, ...]:
    """Differences in OpenCV's numbers even where it reads the cfg correctly."""
    notes = []
    if any(isinstance(section, Convolutional) and section.batch_normalize for section in network.sections):
        fact = "uses 1e-6 as the epsilon of batch norm, Darknet 1e-5: raw outputs differ by up to 6e-2"
        notes.append(_whole("OpenCV 4", network, "note", fact, ""))
    if any(isinstance(section, ScaleChannels) for section in network.sections):
        fact = "runs [scale_channels] on one image at a time only; a larger batch is an error"
        notes.append(_whole("OpenCV 4", network, "note", fact, ""))
    if network.heads:
        least = min(_least_score(network[head]) for head in network.heads)
        fact = f"sets scores up to {least:g} to 0, so a lower --conf has no effect there"
        notes.append(_whole("OpenCV 4", network, "note", fact, ""))
    return tuple(notes)


def _least_score(head: Section) -> float:
    default = 0.001 if isinstance(head, Region) else OPENCV_LEAST_SCORE
    return float(head.options.get("thresh", default))


RUNTIMES: Mapping[str, Callable[[Network], tuple[RuntimeFinding, ...]]] = MappingProxyType(
    {
        "Darknet": darknet_findings,
        "OpenCV 4": lambda network: opencv_findings(network) + opencv_notes(network),
        "ONNX": onnx_findings,
        "TensorRT": tensorrt_findings,
    }
)


def verdict(findings: tuple[RuntimeFinding, ...]) -> str:
    """The worst effect among the findings of one program, or "accepts".

    >>> verdict(())
    'accepts'
    """
    effects = {finding.effect for finding in findings}
    return next(
        (effect for effect in ("refuses", "reads wrongly", "untried") if effect in effects), "accepts"
    )


def _finding(
    runtime: str, network: Network, index: int, effect: Effect, fact: str, remedy: str
) -> RuntimeFinding:
    severity: Severity = "warning" if effect == "reads wrongly" else "note"
    return RuntimeFinding(severity, network.place(index), fact, remedy, (), runtime, effect, index)


def _whole(runtime: str, network: Network, effect: Effect, fact: str, remedy: str) -> RuntimeFinding:
    return RuntimeFinding("note", network.source, fact, remedy, (), runtime, effect)
