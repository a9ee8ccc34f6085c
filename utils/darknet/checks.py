"""Checks of a cfg and its weights that continue after an error: each problem is a finding.

Idea: a `Network` that exists is valid, so a broken cfg has none. Still, every section is read by itself, and
if only the convolutions before the heads have a wrong number of filters, a corrected network is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from ..errors import CfgError, Finding, ToolkitError, WeightsError
from .cfg import Options, RawSection, read_cfg, section_place
from .checkpoint import is_checkpoint, load_weights
from .heads import Head
from .model import Darknet
from .network import Network
from .pretrained import load_pretrained
from .reading import READERS, read_section
from .sections import Section
from .weights import read_header


@dataclass(frozen=True)
class CfgCheck:
    """Result of `check_cfg`.

    Attributes:
        network: None if the cfg is not a valid network.
        corrected: sections whose filters had to be corrected for a network to exist -> filters as written.
        findings: its problems.
    """

    network: Network | None
    corrected: dict[int, int]
    findings: tuple[Finding, ...]


def check_cfg(path: Path) -> CfgCheck:
    """Read a cfg and collect its problems."""
    try:
        raw = read_cfg(path)
    except CfgError as error:
        return CfgCheck(None, {}, (Finding.of(error, str(path)),))
    try:
        return CfgCheck(Network(raw, str(path)), {}, ())
    except CfgError as error:
        return _check_broken(raw, str(path), Finding.of(error, str(path)))


def _check_broken(raw: Sequence[RawSection], source: str, first: Finding) -> CfgCheck:
    sections: list[Section | None] = []
    findings = []
    for index, section in enumerate(raw[1:]):
        try:
            sections.append(read_section(Options(section, index, source)))
        except CfgError as error:
            sections.append(None)
            findings.append(Finding.of(error, source))
    if findings:
        return CfgCheck(None, {}, tuple(findings if first in findings else [first, *findings]))
    corrected, written = list(raw), {}
    for index, head in enumerate(sections):
        if isinstance(head, Head) and index and raw[index].kind == "convolutional":
            wanted, found = str(len(head.mask) * head.width), raw[index].options.get("filters", "1")
            if wanted != found:
                corrected[index] = raw[index].with_options({"filters": wanted})
                written[index - 1] = int(found)
                findings.append(_wrong_filters(source, raw[index], index - 1, head, wanted))
    try:
        return CfgCheck(Network(corrected, source), written, tuple(findings))
    except CfgError as error:
        return CfgCheck(None, {}, (*findings, Finding.of(error, source)))


def _wrong_filters(source: str, raw: RawSection, index: int, head: Head, wanted: str) -> Finding:
    line = raw.option_lines.get("filters", raw.line)
    per_anchor = f"({head.box_values + 1} + {head.classes} classes)"
    needed = f"{wanted} = {len(head.mask)} anchors x {per_anchor}"
    fact = f"filters={raw.options.get('filters', '1')} before a [{head.kind}] that needs {needed}"
    remedy = f"write filters={wanted}, or correct mask or classes"
    return Finding("error", section_place(source, line, raw.kind, index), fact, remedy)


def check_heads(network: Network, classes: int | None = None) -> tuple[Finding, ...]:
    """Check that there are heads, and that they are made for `classes`.

    Args:
        network: any.
        classes: of the data set; None without one.
    """
    if not network.heads:
        fact = "has no detection head, so it cannot detect anything"
        return (Finding("error", network.source, fact, f"add one of {_head_kinds()}"),)
    heads = {index: head.classes for index, head in enumerate(network.sections) if isinstance(head, Head)}
    other = {index: count for index, count in heads.items() if count != classes}
    if classes is None or not other:
        return ()
    counts = " and ".join(str(count) for count in sorted(set(other.values())))
    heads_named = ", ".join(f"#{index}" for index in other)
    fact = f"heads {heads_named} are made for {counts} classes, the data set has {classes}"
    remedy = f"python new_cfg.py --from {network.source} --classes {classes} writes a cfg that fits"
    return (Finding("error", network.source, fact, remedy),)


def _head_kinds() -> str:
    return ", ".join(f"[{kind}]" for kind in READERS if kind.lower().endswith(("yolo", "region")))


def check_weights(network: Network, path: Path) -> tuple[Finding, ...]:
    """Check that a weights file fits the network, and that its numbers are finite."""
    model = Darknet(network)
    try:
        load_weights(model, path)
    except ToolkitError as error:
        return (_of_another_network(model, path, error),)
    size = "a checkpoint" if is_checkpoint(path) else f"{sum(network.weight_counts):,} floats"
    fits = Finding("note", str(path), f"fits {network.source}: {size}, {model.header.seen:,} images seen")
    return (fits, *_unsound(model, path))


def _of_another_network(model: Darknet, path: Path, error: ToolkitError) -> Finding:
    place, network = str(path), model.network
    try:
        found = load_pretrained(model, path)
        heads = ", ".join(f"#{head}" for head in found.replaced_heads)
        fact = f"is made for {found.classes} classes; training from it re-initializes heads {heads}"
        return Finding("warning", place, fact, "to evaluate or prune, give weights of this cfg")
    except ToolkitError:
        pass
    if not is_checkpoint(path):
        try:
            floats = read_header(path)[2]
        except WeightsError:
            return Finding.of(error, place)
        ends = list(accumulate(network.weight_counts))
        if 0 < floats < ends[-1] and floats in ends:
            count = ends.index(floats) + 1
            backbone = f"a backbone with {floats:,} of {ends[-1]:,} floats"
            fact = f"ends exactly after section #{count - 1}: {backbone}"

            return Finding("warning", place, fact, f"train from it with --cutoff {count}, or --cutoff auto")
    return Finding.of(error, place)


def _unsound(model: Darknet, path: Path) -> list[Finding]:
    findings = []
    for index, layer in enumerate(model.layers):
        for name, tensor in layer.state_dict().items():
            wrong = ~torch.isfinite(tensor)
            if name.endswith("running_var"):
                wrong |= tensor < 0
            if count := int(wrong.sum()):
                values = f"{count:,} of the {tensor.numel():,} values of {name}"
                fact = f"{values} are NaN, inf or negative variances"

                place = f"{path}: {model.network.place(index)}"
                findings.append(Finding("error", place, fact, "give weights of an earlier epoch"))
    return findings
