"""A plotting area as inline SVG, coloured by the page's own style sheet: so it follows dark mode, paper and zoom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Point = tuple[float, float]

LABEL_GAP = 15.0
"""Least distance of two labels at the ends of lines, in units of the drawing."""


@dataclass(slots=True)
class Plot:
    """Axes in data coordinates; what is drawn first lies below.

    Attributes:
        title: What a screen reader says of it.
        x_range: First and last value of the x axis.
        y_range: Lowest and highest value of the y axis.
        size: Width and height; the page scales it, text and all.
        margins: Left, right, top and bottom: room for labels.
        y_scale: Values of y before they are placed, for instance their square roots.
    """

    title: str
    x_range: Point
    y_range: Point
    size: Point = (344.0, 230.0)
    margins: tuple[float, float, float, float] = (38.0, 12.0, 14.0, 34.0)
    y_scale: Callable[[float], float] = float
    _parts: list[Markup] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Where a value of x is drawn."""
        left, right, _, _ = self.margins
        low, high = self.x_range
        return left + (self.size[0] - left - right) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Where a value of y is drawn."""
        _, _, top, bottom = self.margins
        low, high = map(self.y_scale, self.y_range)
        return self.size[1] - bottom - (self.size[1] - top - bottom) * (self.y_scale(value) - low) / (high - low)

    @property
    def right(self) -> float:
        """The right end of the area."""
        return self.size[0] - self.margins[1]

    @property
    def bottom(self) -> float:
        """The lower end of the area."""
        return self.size[1] - self.margins[3]

    def add(self, element: str, *, kind: str, **attributes: object) -> None:
        """Add an element of a CSS class, with numbers to a tenth."""
        cells = [
            Markup('{}="{}"').format(name.replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value)
            for name, value in attributes.items()
        ]
        self._parts.append(Markup('<{} class="{}" {}/>').format(Markup(element), kind, Markup(" ").join(cells)))

    def text(self, x: float, y: float, content: str, *, kind: str = "tick", anchor: str = "start") -> None:
        """Write at a place in the drawing's own units."""
        self._parts.append(
            Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                kind, f"{x:.1f}", f"{y:.1f}", anchor, content
            )
        )

    def grid(self, ticks: Iterable[float], *, name: Callable[[float], str] = "{:g}".format) -> None:
        """Draw a faint line across and a number beside it for each value of y."""
        for tick in ticks:
            y = self.y(tick)
            self.add("line", kind="grid", x1=self.margins[0], x2=self.right, y1=y, y2=y)
            self.text(self.margins[0] - 6, y + 4, name(tick), anchor="end")

    def x_axis(self, ticks: Iterable[float], *, label: str, name: Callable[[float], str] = "{:g}".format) -> None:
        """Draw the x axis with numbers below it, and what they count."""
        self.add("line", kind="axis", x1=self.margins[0], x2=self.right, y1=self.bottom, y2=self.bottom)
        for tick in ticks:
            self.text(self.x(tick), self.bottom + 15, name(tick), anchor="middle")
        self.text((self.margins[0] + self.right) / 2, self.bottom + 30, label, anchor="middle")

    def line(self, points: Sequence[Point], *, kind: str) -> None:
        """Draw a line through points in data coordinates."""
        self.add("polyline", kind=f"line {kind}", points=self._place(points))

    def band(self, low: Sequence[Point], high: Sequence[Point], *, kind: str) -> None:
        """Fill what lies between two lines."""
        self.add("polygon", kind=f"band {kind}", points=self._place([*low, *reversed(high)]))

    def dot(self, point: Point, *, kind: str, radius: float = 3.5) -> None:
        """Draw a dot."""
        self.add("circle", kind=f"dot {kind}", cx=self.x(point[0]), cy=self.y(point[1]), r=radius)

    def bar(self, x_range: Point, y_range: Point, *, kind: str) -> None:
        """Draw a bar with a hair of room at its sides."""
        left, right = self.x(x_range[0]) + 0.75, self.x(x_range[1]) - 0.75
        top, bottom = sorted((self.y(y_range[0]), self.y(y_range[1])))
        self.add("rect", kind=f"bar {kind}", x=left, y=top, width=max(right - left, 0.5), height=bottom - top)

    def end_labels(self, ends: Sequence[tuple[Point, str, str]]) -> None:
        """Name lines at their ends, in place of a legend: (point, name, CSS class); close ones move apart."""
        place = -math.inf
        for point, content, kind in sorted(ends, key=lambda end: self.y(end[0][1])):
            place = max(self.y(point[1]) + 4, place + LABEL_GAP)
            self.text(self.x(point[0]) + 8, place, content, kind=f"name {kind}")

    def svg(self) -> Markup:
        """The drawing."""
        width, height = self.size
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            f"{width:g}", f"{height:g}", escape(self.title)
        )
        return head + Markup("").join(self._parts) + Markup("</svg>")

    def _place(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def round_ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round values from ``low`` to ``high``, about so many: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
