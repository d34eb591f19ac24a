"""Charts as inline SVG. The page's style gives the classes `k0`, `k1`, … their colours, in dark mode others."""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = 8
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 42
_DASHES = ('', '7 4', '2 3', '9 3 2 3')  # colours repeat, and paper may have none

Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], *, x: str, y: str, logarithmic: bool = False,
          dots: bool = False) -> str:
  """Returns a line for each series.

  Args:
    series: name -> pairs of x and y; those that are not finite, or not above 0 on a logarithmic axis, are left out.
    x: the label of the horizontal axis.
    y: the label of the vertical axis.
    logarithmic: of the vertical axis.
    dots: mark each point.
  """
  usable = lambda value: math.isfinite(value) and (value > 0 or not logarithmic)
  kept = {name: [(a, b) for a, b in points if usable(b)] for name, points in series.items()}
  axes = _Axes([a for points in kept.values() for a, _ in points], [b for points in kept.values() for _, b in points],
               logarithmic)
  marks = []
  for i, (name, points) in enumerate(kept.items()):
    places = [axes.place(a, b) for a, b in points]
    dash = _DASHES[i // COLOURS % len(_DASHES)]
    path = ' '.join(f'{a:.1f},{b:.1f}' for a, b in places)
    marks.append(f'<polyline class="line k{i % COLOURS}" stroke-dasharray="{dash}" points="{path}"/>')
    if dots or len(places) == 1:
      marks += [f'<circle class="dot k{i % COLOURS}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"><title>{escape(name)}: {x} '
                f'{_number(point[0])}, {_number(point[1])}</title></circle>'
                for (a, b), point in zip(places, points, strict=True)]
  return _chart(axes, marks, x, y)


def scatter(series: Mapping[str, Points], *, hollow: Mapping[str, Points], x: str, y: str) -> str:
  """Returns the points of each series, and hollow ones of the same colour, each joined to the point of its index."""
  every = [point for given in (series, hollow) for points in given.values() for point in points]
  axes = _Axes([a for a, _ in every], [b for _, b in every], False)
  marks = []
  for i, (name, points) in enumerate(series.items()):
    ends = [axes.place(*point) for point in points]
    starts = [axes.place(*point) for point in hollow.get(name, ())]
    colour = f'k{i % COLOURS}'
    marks += [f'<line class="join {colour}" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>'
              for (a, b), (c, d) in zip(starts, ends, strict=False)]
    marks += [f'<circle class="ring {colour}" cx="{a:.1f}" cy="{b:.1f}" r="4"><title>{escape(name)}, start of vector '
              f'{k}</title></circle>' for k, (a, b) in enumerate(starts)]
    marks += [f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="4.5"><title>{escape(name)}, vector {k}'
              f'</title></circle>' for k, (a, b) in enumerate(ends)]
  return _chart(axes, marks, x, y)


class _Axes:
  """The scales of both axes, and their ticks."""

  def __init__(self, xs: Sequence[float], ys: Sequence[float], logarithmic: bool):
    self._log = logarithmic
    self.x = _span([float(value) for value in xs])
    self.y = _span([math.log10(value) if logarithmic else float(value) for value in ys])

  def place(self, x: float, y: float) -> tuple[float, float]:
    """Returns the position of a point in the drawing."""
    y = math.log10(y) if self._log else y
    across, up = ((value - low) / (high - low) for value, (low, high) in ((x, self.x), (y, self.y)))
    return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))

  def ticks(self) -> tuple[list[float], list[float]]:
    """Returns the values at which the axes have ticks."""
    if not self._log:
      return _ticks(*self.x), _ticks(*self.y)
    low, high = self.y
    decades = range(math.floor(low), math.ceil(high) + 1)
    factors = (1,) if high - low > 2 else (1, 2, 5)
    return _ticks(*self.x), [factor * 10.0**decade for decade in decades for factor in factors
                             if low <= decade + math.log10(factor) <= high]


def _span(values: Sequence[float]) -> tuple[float, float]:
  if not values:
    return 0.0, 1.0
  low, high = min(values), max(values)
  margin = 0.04 * (high - low) or 0.5
  return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
  step = 10.0 ** math.floor(math.log10((high - low) / 4))
  step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
  return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _chart(axes: _Axes, marks: Sequence[str], x: str, y: str) -> str:
  xs, ys = axes.ticks()
  low, high = axes.x[0], axes.y[0]
  bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  drawn = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y)} by {escape(x)}">']
  for value in ys:
    at = axes.place(low, value)[1]
    drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
                 f'<text x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
  bottom_value = 10.0**high if axes._log else high
  for value in xs:
    at = axes.place(value, bottom_value)[0]
    drawn.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
                 f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(value)}</text>')
  middle = (_TOP + bottom) / 2
  drawn.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
               f'<text transform="rotate(-90 13 {middle})" x="13" y="{middle}" text-anchor="middle">{escape(y)}</text>')
  return ''.join([*drawn, *marks, '</svg>'])


def _number(value: float) -> str:
  return f'{value:.3g}' if abs(value) < 1000 else f'{value:,.0f}'
