"""Bar charts in SVG. Each panel is a case, and each bar a contender: the longer the bar, the faster the contender."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import jinja2

COLUMNS: Final = 2
PANEL_WIDTH: Final = 520
LABEL_WIDTH: Final = 245
BAR_HEIGHT: Final = 15
LINE_HEIGHT: Final = 20
HEADER_HEIGHT: Final = 64
TITLE_HEIGHT: Final = 34

TEMPLATE: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" viewBox="0 0 {{ width }} {{ height }}"
     font-family="Helvetica, Arial, sans-serif" font-size="12">
  <rect width="100%" height="100%" fill="#ffffff"/>
  <text x="16" y="26" font-size="17" font-weight="bold" fill="#1f2933">{{ title }}</text>
  <text x="16" y="46" fill="#52606d">{{ subtitle }}</text>
{%- for panel in panels %}
  <g transform="translate({{ panel.x }} {{ panel.y }})">
    <text x="0" y="14" font-size="13" font-weight="bold" fill="#1f2933">{{ panel.title }}</text>
{%- for bar in panel.bars %}
    <text x="{{ label - 8 }}" y="{{ bar.y + 12 }}" text-anchor="end" fill="#1f2933"
          {%- if bar.strong %} font-weight="bold"{% endif %}>{{ bar.name }}</text>
    <rect x="{{ label }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar_height }}" rx="2"
          fill="{{ bar.fill }}"/>
    <text x="{{ label + bar.width + 5 }}" y="{{ bar.y + 12 }}" fill="#52606d">{{ "%.2f" | format(bar.value) }}</text>
{%- endfor %}
{%- if panel.mark is not none %}
    <line x1="{{ panel.mark }}" x2="{{ panel.mark }}" y1="{{ panel.top }}" y2="{{ panel.bottom }}" stroke="#b91c1c"
          stroke-dasharray="3 3"/>
{%- endif %}
  </g>
{%- endfor %}
</svg>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: the values of the contenders, and a value that is marked by a line."""

    title: str
    values: Mapping[str, float]
    mark: float | None


def bar_chart(
    panels: Sequence[Panel], *, title: str, subtitle: str, fills: Mapping[str, str], strong: frozenset[str]
) -> str:
    """Return an SVG document with `panels` in two columns. `fills` are the colours of bars; `strong` names are bold."""
    rows = max(len(panel.values) for panel in panels)
    panel_height = TITLE_HEIGHT + rows * LINE_HEIGHT + 16
    drawn = [
        _drawn(panel, fills, strong)
        | {"x": 16 + place % COLUMNS * PANEL_WIDTH, "y": HEADER_HEIGHT + place // COLUMNS * panel_height}
        for place, panel in enumerate(panels)
    ]
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE)
    return (
        template.render(
            title=title,
            subtitle=subtitle,
            panels=drawn,
            width=16 + COLUMNS * PANEL_WIDTH,
            height=HEADER_HEIGHT + -(-len(panels) // COLUMNS) * panel_height,
            label=LABEL_WIDTH,
            bar_height=BAR_HEIGHT,
        )
        + "\n"
    )


def _drawn(panel: Panel, fills: Mapping[str, str], strong: frozenset[str]) -> dict[str, object]:
    longest = max([*panel.values.values(), panel.mark or 0.0])
    scale = (PANEL_WIDTH - LABEL_WIDTH - 70) / longest
    bars = [
        {
            "name": name,
            "value": value,
            "y": TITLE_HEIGHT - 8 + place * LINE_HEIGHT,
            "width": round(value * scale, 1),
            "fill": fills[name],
            "strong": name in strong,
        }
        for place, (name, value) in enumerate(panel.values.items())
    ]
    return {
        "title": panel.title,
        "bars": bars,
        "mark": None if panel.mark is None else round(LABEL_WIDTH + panel.mark * scale, 1),
        "top": TITLE_HEIGHT - 12,
        "bottom": TITLE_HEIGHT - 8 + len(bars) * LINE_HEIGHT,
    }
