"""The pictures of a report: learning curves, calibration, scores by true label, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.confusion import Counts
from training.drawing import Plot, Point, round_ticks
from training.figures import CalibrationBin, Scores

if TYPE_CHECKING:
    from training.curves import Curves, EpochPoint

MOST_POINTS = 30
"""Points of a line; of longer ones the means of blocks are drawn, within their lowest and highest values."""

MOST_DOTS = 15
"""Lines of more epochs have no dots: they would hide the line."""

SCORE_BINS = 20

LABEL_CHARACTERS = 24
"""Longer labels are cut in pictures."""

CURVE_MARGINS = (38.0, 78.0, 14.0, 34.0)
"""The names of the lines stand on the right."""


def draw_loss(curves: Curves) -> Markup:
    """Training and validation loss by step."""
    steps = [(float(point.step), point.train_loss) for point in curves.steps]
    epochs = [(float(point.step), point.val_loss) for point in curves.epochs]
    low, mean, high = _thin(steps)
    values = [value for _, value in (*low, *high, *epochs)]
    # The first losses of a fresh head can dwarf all that follows.
    top = max(np.quantile([value for _, value in (*mean, *epochs)], 0.98) * 1.15, min(values) + 0.05)
    plot = Plot("Loss by epoch", _step_range(curves), (0.0, float(top)), margins=CURVE_MARGINS)
    plot.grid(round_ticks(0, top))
    _epoch_axis(plot, curves.epochs)
    low, mean, high = ([(x, min(y, float(top))) for x, y in line] for line in (low, mean, high))
    if len(steps) > MOST_POINTS:
        plot.band(low, high, kind="first")
    plot.line(mean, kind="first")
    plot.line(epochs, kind="second")
    for point in epochs if len(epochs) <= MOST_DOTS else []:
        plot.dot(point, kind="second")
    named = ((mean, "training", "first"), (epochs, "validation", "second"))
    plot.end_labels([(line[-1], name, kind) for line, name, kind in named if line])
    return plot.svg()


def draw_correlation(epochs: Sequence[EpochPoint]) -> Markup:
    """Validation MCC by epoch, the best one named."""
    values = [point.val_mcc for point in epochs]
    low, high = min(0.0, *values), max(values)
    room = max(high - low, 0.05) * 0.12
    low, high = low - room if low < 0 else 0.0, high + room
    plot = Plot("Validation MCC by epoch", (0.0, float(epochs[-1].step)), (low, high))
    plot.grid(round_ticks(low, high))
    _epoch_axis(plot, epochs)
    plot.line([(float(point.step), point.val_mcc) for point in epochs], kind="second")
    best = max(epochs, key=lambda point: point.val_mcc)
    for point in epochs if len(epochs) <= MOST_DOTS else [best]:
        plot.dot((float(point.step), point.val_mcc), kind="second", radius=6.0 if point is best else 3.5)
    # Beside the dot, on the side where the line is not.
    at_end = plot.x(best.step) > plot.right - 60
    plot.text(
        plot.x(best.step) + (-10 if at_end else 10), plot.y(best.val_mcc) - 9,
        f"{best.val_mcc:.3f}", kind="name second", anchor="end" if at_end else "start",
    )  # fmt: skip
    return plot.svg()


def draw_rate(curves: Curves) -> Markup:
    """The encoder's learning rate by step."""
    steps = [(float(point.step), point.lr) for point in curves.steps]
    _, line, _ = _thin(steps)
    top = max(value for _, value in line) * 1.1 or 1.0
    plot = Plot("Learning rate by epoch", _step_range(curves), (0.0, top), margins=(52.0, 12.0, 14.0, 34.0))
    plot.grid(round_ticks(0, top), name=lambda tick: f"{tick:.0e}".replace("e-0", "e-") if tick else "0")
    _epoch_axis(plot, curves.epochs)
    plot.line(line, kind="first")
    return plot.svg()


def draw_reliability(bins: Sequence[CalibrationBin], *, label_count: int) -> Markup:
    """Accuracy against confidence by bin: on the dotted line, the scores mean what they say.

    A dot's area is its share of the rows. The winner of two labels has a half at least, so the axis begins there.
    """
    filled = [part for part in bins if part.rows]
    most = max(part.rows for part in filled)
    start = np.floor(10 / label_count) / 10
    plot = Plot("Accuracy by confidence", (start, 1.0), (0.0, 1.0), margins=(42.0, 20.0, 14.0, 34.0))
    plot.grid((0, 0.25, 0.5, 0.75, 1), name="{:.0%}".format)
    plot.x_axis(round_ticks(start, 1, about=5), label="confidence", name="{:.0%}".format)
    plot.line([(start, start), (1.0, 1.0)], kind="ideal")
    for part in filled:
        plot.line([(part.confidence, part.confidence), (part.confidence, part.accuracy)], kind="gap")
    for part in filled:
        radius = max(2.5, 13 * (part.rows / most) ** 0.5)
        plot.dot((part.confidence, part.accuracy), kind="first see-through", radius=radius)
    return plot.svg()


def draw_scores(scores: Scores, true: Counts, *, labels: Sequence[str]) -> Markup:
    """Rows by score: for two labels those of each true label, for more those that are right and wrong.

    Wrong rows are solid. Heights are square roots, since the few that matter stand beside the many that do not.
    """
    if len(labels) == 2:
        values, is_upper = scores[:, 1], true == 1
        names = (f"{_cut(labels[1])} in truth", f"{_cut(labels[0])} in truth")
        what = f"score of {_cut(labels[1])}"
        start, threshold = 0.0, 0.5
    else:
        values, is_upper = scores.max(-1), scores.argmax(-1) == true
        names, what = ("right", "wrong"), "confidence"
        start, threshold = 0.0, 0.0
    edges = np.linspace(start, 1, SCORE_BINS + 1)
    upper, lower = (np.histogram(values[side], edges)[0].tolist() for side in (is_upper, ~is_upper))
    plot = Plot(
        f"Rows by {what}", (start, 1.0), (-max(1.0, *lower) * 1.35, max(1.0, *upper) * 1.35),
        y_scale=lambda count: float(np.sign(count) * np.sqrt(abs(count))),
    )  # fmt: skip
    plot.grid(_counts(-max(lower), max(upper)), name=lambda count: f"{abs(count):,.0f}")
    plot.x_axis(round_ticks(start, 1, about=5), label=what)
    for place, (above, below) in enumerate(zip(upper, lower, strict=True)):
        span = (float(edges[place]), float(edges[place + 1]))
        is_above = span[0] >= threshold - 1e-9
        if above:
            plot.bar(span, (0, above), kind="first" if is_above else "first wrong")
        if below:
            plot.bar(span, (0, -below), kind="second wrong" if is_above else "second")
    plot.add("line", kind="axis", x1=plot.margins[0], x2=plot.right, y1=plot.y(0), y2=plot.y(0))
    if threshold:
        x = plot.x(threshold)
        plot.add("line", kind="ideal line", x1=x, x2=x, y1=plot.margins[2], y2=plot.bottom)
    plot.text(plot.margins[0] + 4, plot.margins[2] + 10, names[0], kind="name first")
    plot.text(plot.margins[0] + 4, plot.bottom - 6, names[1], kind="name second")
    return plot.svg()


def draw_interval(value: float, low: float, high: float, *, span: Point, mark: float | None = None) -> Markup:
    """A figure with its interval on a short line, to stand in a table's cell; ``mark`` is the figure of all rows."""
    plot = Plot(f"{value:.3f}, from {low:.3f} to {high:.3f}", span, (0.0, 1.0), size=(160.0, 18.0), margins=(6.0,) * 4)
    plot.add("line", kind="grid", x1=6.0, x2=plot.right, y1=9.0, y2=9.0)
    if mark is not None:
        plot.add("line", kind="ideal line", x1=plot.x(mark), x2=plot.x(mark), y1=1.0, y2=17.0)
    plot.add("line", kind="range", x1=plot.x(low), x2=plot.x(high), y1=9.0, y2=9.0)
    plot.dot((value, 0.5), kind="first", radius=4.0)
    return plot.svg()


def _thin(points: Sequence[Point]) -> tuple[list[Point], list[Point], list[Point]]:
    """Lowest, mean and highest values of blocks of points."""
    lines: tuple[list[Point], list[Point], list[Point]] = ([], [], [])
    for block in np.array_split(
        np.asarray(points, dtype=np.float64).reshape(-1, 2), min(len(points), MOST_POINTS) or 1
    ):
        if len(block):
            x = float(block[:, 0].mean())
            for line, value in zip(lines, (block[:, 1].min(), block[:, 1].mean(), block[:, 1].max()), strict=True):
                line.append((x, float(value)))
    return lines


def _step_range(curves: Curves) -> Point:
    return 0.0, float(max([point.step for point in (*curves.steps, *curves.epochs)], default=1))


def _epoch_axis(plot: Plot, epochs: Sequence[EpochPoint]) -> None:
    """Number the ends of epochs, at most about ten of them."""
    every = -(-len(epochs) // 10) or 1
    shown = {float(point.step): point.epoch for point in epochs if point.epoch % every == 0}
    plot.x_axis(shown, label="epoch", name=lambda step: str(shown[step]))


def _counts(low: float, high: float) -> list[float]:
    """Counts to draw lines at, closer near zero as square roots want it."""
    ladder: NDArray[np.float64] = np.array([factor * 10.0**power for power in range(9) for factor in (1, 2, 5)])
    largest = max(-low, high, 1.0)
    steps = [count for count in ladder.tolist() if count <= largest][-5::2] or [1.0]
    return sorted({0.0, *(count for count in steps if count <= high), *(-count for count in steps if count <= -low)})


def _cut(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"
