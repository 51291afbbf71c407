"""Small plots as inline SVG: bars with their intervals, nothing fetched, nothing scripted."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from indexer.evaluate.estimates import Estimate

_ROW, _LABEL, _PLOT, _FIGURE, _TOP = 24, 300, 380, 150, 22


@dataclass(frozen=True)
class Bar:
    """One bar from 0 to 1; `reference` is a mark to compare with, such as chance."""

    label: str
    estimate: Estimate
    text: str
    reference: float | None = None
    strong: bool = False


def bars(bars: Sequence[Bar], description: str) -> str:
    """Draw horizontal bars on a scale from 0 to 1, a line for each interval, a tick for each reference."""
    height = _TOP + _ROW * len(bars) + 6
    scale = "".join(
        f'<line x1="{_x(mark)}" x2="{_x(mark)}" y1="{_TOP - 4}" y2="{height}" class="grid"/>'
        f'<text x="{_x(mark)}" y="12" text-anchor="middle">{mark:g}</text>'
        for mark in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    rows = "".join(_row(bar, _TOP + _ROW * number) for number, bar in enumerate(bars))
    width = _LABEL + _PLOT + _FIGURE
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(description, quote=True)}">{scale}{rows}</svg>'
    )


def _row(bar: Bar, top: int) -> str:
    middle = top + _ROW / 2
    strong = " strong" if bar.strong else ""
    parts = [f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>']
    value = bar.estimate.value
    if value is not None:
        parts.append(
            f'<rect x="{_LABEL}" y="{top + 4}" width="{_x(value) - _LABEL:.1f}" height="{_ROW - 8}" '
            f'class="bar{strong}"/>'
        )
    if bar.estimate.low is not None and bar.estimate.high is not None:
        low, high = _x(bar.estimate.low), _x(bar.estimate.high)
        parts.append(f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" class="interval"/>')
    if bar.reference is not None:
        at = _x(bar.reference)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{top + 2}" y2="{top + _ROW - 2}" class="reference"/>')
    parts.append(f'<text x="{_LABEL + _PLOT + 8}" y="{middle + 4}">{escape(bar.text)}</text>')
    return "".join(parts)


def _x(value: float) -> float:
    return round(_LABEL + _PLOT * min(max(value, 0.0), 1.0), 1)
