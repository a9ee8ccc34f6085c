"""Pictures are drawn for any figures, and say what they are given."""

import numpy as np
import pytest

from utils.reporting import curves
from utils.reporting.curves import Point, plot_ladders, plot_sensitivity

WHOLE = Point(0.0, 0.6, 0.58, 9_000_000, 3_000_000_000, 40.0)


def rungs(recalibrated=True, timed=True):
    return [
        Point(share, 0.6 - share**4, 0.59 - share**5 if recalibrated else None,
              int(9e6 * (1 - share)), int(3e9 * (1 - share)), 40 * (1 - share) if timed else None)
        for share in (0.1, 0.5, 0.9)
    ]  # fmt: skip


@pytest.fixture
def figure(monkeypatch):
    """The figures that were saved."""
    saved = []
    save = curves._save
    monkeypatch.setattr(curves, "_save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("recalibrated", [True, False])
def test_each_score_is_a_curve_of_the_better_map_in_each_panel(tmp_path, figure, timed, recalibrated) -> None:
    points = rungs(recalibrated, timed)
    whole = WHOLE if timed else Point(*list(vars(WHOLE).values())[:5], None)
    path = tmp_path / "ladder.png"
    plot_ladders(
        whole, {"gamma": points, "l1": points[:2]}, {"gamma": 0.5, "l1": 0.0}, 0.01, path,
        title="x", runtime="torch",
    )  # fmt: skip
    assert path.read_bytes().startswith(b"\x89PNG")
    (drawn,) = figure
    assert len(drawn.axes) == (4 if timed else 3)
    for axis in drawn.axes:
        lines = {line.get_label(): line for line in axis.lines}
        expected = [60.0, *(100 * point.best for point in points)]
        assert lines["gamma"].get_ydata() == pytest.approx(expected)
        assert lines["l1"].get_ydata() == pytest.approx(expected[:3])
        assert len(axis.texts) == 1  # the one knee
    assert [text.get_text() for text in drawn.axes[0].texts] == ["0.5"]


def test_the_heat_map_tells_every_figure_and_passes_over_what_is_missing(tmp_path, figure) -> None:
    drops = np.array([[0.0, 0.253], [-0.0004, np.nan], [-0.03, 0.8]])
    path = tmp_path / "heat.png"
    plot_sensitivity(drops, ["0 (16)", "1 .. 9, 4 layers (32)", "12 (8)"], [0.2, 0.8], path, title="x")
    assert path.read_bytes().startswith(b"\x89PNG")
    axis = figure[0].axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.0", "25.3", "0.0", "-3.0", "80.0"]
    assert [label.get_text() for label in axis.get_yticklabels()][1] == "1 .. 9, 4 layers (32)"
    low, high = figure[0].axes[1].get_ylim()
    assert (low, high) == pytest.approx((-3.0, 80.0))


def test_a_heat_map_without_any_loss_can_be_drawn(tmp_path, figure) -> None:
    plot_sensitivity(np.zeros((1, 1)), ["0 (1)"], [0.5], tmp_path / "heat.png", title="x")
    assert figure[0].axes[1].get_ylim()[1] == 5.0  # points: noise does not look like a loss
