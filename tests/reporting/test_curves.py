"""Pictures are drawn for any figures, and say what they are given."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

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
    save = Figure.savefig

    def noted(figure, *args, **options):
        saved.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
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


@pytest.mark.parametrize(("groups", "ratios"), [(1, 1), (1, 15), (3, 4), (30, 2)])
def test_what_is_written_on_a_heat_map_lies_in_it_and_apart(tmp_path, figure, groups, ratios) -> None:
    labels = [f"{10 * group} .. {10 * group + 9}, 4 layers (512)" for group in range(groups)]
    shares = [round((number + 1) / (ratios + 1), 2) for number in range(ratios)]
    title = "a_network_with_a_long_name_last.weights at 416x416, 200 images, score gamma_x_l1"
    plot_sensitivity(np.full((groups, ratios), -0.123), labels, shares, tmp_path / "heat.png", title=title)
    heat, bar = figure[0].axes
    whole = figure[0].bbox
    written = [
        heat.xaxis.label,
        heat.yaxis.label,
        bar.yaxis.label,
        figure[0]._suptitle,
        *heat.get_yticklabels(),
    ]
    for text in written:
        box = text.get_window_extent()
        assert box.x0 >= whole.x0, text
        assert box.x1 <= whole.x1, text
        assert box.y0 >= whole.y0, text
        assert box.y1 <= whole.y1, text
    for texts in (heat.texts[:ratios], heat.get_xticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_figures_stand_out_from_their_cells(tmp_path, figure) -> None:
    drops = np.linspace(-0.1, 0.2, 31)[:, None]
    plot_sensitivity(drops, [str(row) for row in range(31)], [0.5], tmp_path / "heat.png", title="x")
    heat = figure[0].axes[0]
    (mesh,) = heat.collections
    for text, colour in zip(heat.texts, mesh.to_rgba(mesh.get_array()).reshape(-1, 4), strict=True):
        ink, paper = sorted(map(curves._luminance, (to_rgb(text.get_color()), colour)))
        assert (paper + 0.05) / (ink + 0.05) >= 3.5  # 3 is what WCAG asks of large letters


def test_a_small_network_is_counted_in_thousands(tmp_path, figure) -> None:
    whole = Point(0.0, 0.6, None, 7_346, 314_100, None)
    points = [Point(0.5, 0.5, None, 3_000, 100_000, None)]
    path = tmp_path / "ladder.png"
    plot_ladders(whole, {"l1": points}, {"l1": 0.0}, 0.01, path, title="x", runtime="none")
    axes = figure[0].axes[1:]
    assert [axis.get_xlabel() for axis in axes] == ["parameters, thousands", "multiply-adds, thousands"]
    assert [axis.lines[0].get_xdata()[0] for axis in axes] == [7.346, 314.1]


def test_a_network_that_finds_nothing_can_be_drawn(tmp_path, figure) -> None:
    nothing = Point(0.0, float("nan"), None, 7_346, 314_100, None)
    plot_ladders(nothing, {"l1": [nothing]}, {"l1": 0.0}, 0.01, tmp_path / "x.png", title="x", runtime="none")
    assert figure


def test_a_network_that_gets_better_when_pruned_stays_in_the_picture(tmp_path, figure) -> None:
    whole, half = Point(0.0, 0.2, None, 7_346, 314_100, None), Point(0.5, 0.4, None, 4_000, 200_000, None)
    plot_ladders(whole, {"l1": [half]}, {"l1": 0.5}, 0.01, tmp_path / "x.png", title="x", runtime="none")
    assert all(axis.get_ylim()[1] > 40 for axis in figure[0].axes)


def test_a_heat_map_without_any_loss_can_be_drawn(tmp_path, figure) -> None:
    plot_sensitivity(np.zeros((1, 1)), ["0 (1)"], [0.5], tmp_path / "heat.png", title="x")
    assert figure[0].axes[1].get_ylim()[1] == 5.0  # points: noise does not look like a loss
