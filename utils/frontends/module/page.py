"""The report of `slim` as an HTML page, with layers where a detector's page has sections."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...reporting.charts import digits, short
from ...reporting.page import Card, CheckRow, Page, SectionRow, write_page
from .proof import EQUAL, EQUAL_RESCALED

if TYPE_CHECKING:
    from .result import SlimReport, SlimResult


def write(path: Path, result: "SlimResult", title: str) -> None:
    """Write the page of a result, whole or not at all."""
    report = result.report
    counted = f"{int(result.kept.sum()):,} of the {len(result.kept):,} removable channels are left."
    write_page(
        path,
        Page(
            title=title,
            cfg_before="",
            cfg_after="",
            moved={},
            subtitle=counted,
            facts=_facts(result),
            cards=(_card("Parameters", report.parameters), _card("MACs of one example", report.macs)),
            sections=tuple(
                SectionRow(
                    None,
                    f"{each.name} {each.kind}",
                    each.before,
                    each.after,
                    False,
                    None,
                    each.parameters,
                    each.macs,
                )
                for each in report.layers
            ),
            scores=result.scores,
            kept=result.kept,
            score=result.score,
            checks=(_check(report),),
            notes=_notes(report),
            part="layer",
        ),
    )


def _card(label: str, sizes: tuple[int, int]) -> Card:
    before, after = sizes
    share = after / max(1, before)
    return Card(label, short(before), short(after), f"{100 * share:.0f} % left", share)


def _facts(result: "SlimResult") -> tuple[tuple[str, str], ...]:
    shape = "x".join(map(str, result.plan.input_shape))
    seconds = result.report.seconds.items()
    return (("Example", shape), *((name.capitalize(), f"{digits(value)} s") for name, value in seconds))


def _check(report: "SlimReport") -> CheckRow:
    allowed = EQUAL if report.difference <= EQUAL else EQUAL_RESCALED
    note = "the pruned network and the given one with the removed channels at zero, over the largest output"
    return CheckRow("zeroed / pruned", report.difference, allowed, f"{note}, float64")


def _notes(report: "SlimReport") -> tuple[str, ...]:
    """What was asked for, what was not done and why, as the printed report says it."""
    lines = str(report).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("zeroed / pruned"))
    return tuple(line.strip() for line in lines[first + 1 :])
