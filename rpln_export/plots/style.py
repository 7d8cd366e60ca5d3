"""The style that all plots share, and the figures that are drawn in it.

A plot is drawn in the colours of a light page. `rpln_export.plots.svg` turns them into variables of CSS, which have
other values on a dark page. No plot tells things apart by colour alone: lines have other markers and dashes, too.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """A colour on a light page and on a dark one, as hexadecimal numbers of red, green and blue."""

    light: str
    dark: str


COLOURS: Final = {
    "ink": Colour(light="#1d232b", dark="#e4e8ee"),
    "muted": Colour(light="#56606d", dark="#a3adba"),
    "grid": Colour(light="#dde2e8", dark="#2f3742"),
    "blue": Colour(light="#1f66ad", dark="#6db3ff"),
    "orange": Colour(light="#b4540a", dark="#f4a84a"),
    "teal": Colour(light="#0e756d", dark="#4dcfbf"),
    "purple": Colour(light="#7440c4", dark="#b99cff"),
    "red": Colour(light="#b4232a", dark="#ff8f87"),
}
"""The colours of plots. Each light one stands for its name until the plot is written, so no two are equal."""

SERIES: Final = ("blue", "orange", "teal", "purple", "red")
"""The names of the colours of lines and bars, in their order. MARKERS and DASHES go with them."""
MARKERS: Final = ("o", "s", "^", "D", "v")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)))

WIDTH: Final = 460
"""The width of a plot in pixels. On the screen of a phone, a plot of this width is still read without scrolling."""
PIXELS_PER_INCH: Final = 72
LONG_LABEL: Final = 22
"""The most letters of labels that stand beside each other."""


def light(name: str) -> str:
    """Return a row of COLOURS as matplotlib wants a colour."""
    return COLOURS[name].light


@contextmanager
def figure(*, height: float, width: float = WIDTH) -> Iterator[tuple["Figure", "Axes"]]:
    """Give a figure with one pair of axes in the project's style; what is drawn in the block has that style.

    `width` and `height` are in pixels, as are sizes of letters and lines. `rpln_export.plots.svg` writes the figure.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_settings()):
        drawn = Figure(
            figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH, layout="constrained"
        )
        yield drawn, drawn.add_subplot()


def legend_above(axes: "Axes") -> None:
    """Put the legend above the axes, where it hides nothing; long labels are put below each other."""
    longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
    columns = 2 if longest <= LONG_LABEL else 1
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=columns)


def name_powers_of_ten(axis: "Axis") -> None:
    """Put the ticks of a logarithmic axis at powers of ten, and write these with raised digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"10{str(round(math.log10(value))).translate(_SUPERSCRIPTS)}")
    )


_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _settings() -> dict[Any, Any]:
    """Return the settings of matplotlib that make the style."""
    from cycler import cycler

    series = cycler(color=[light(name) for name in SERIES], marker=MARKERS, linestyle=DASHES)
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": light("muted"),
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": light("ink"),
        "axes.labelsize": 12,
        "axes.linewidth": 1,
        "axes.prop_cycle": series,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": "none",
        "font.family": "DejaVu Sans",  # it comes with matplotlib; readers see their own fonts
        "font.size": 12,
        "grid.color": light("grid"),
        "grid.linewidth": 1,
        "legend.fontsize": 11,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "text.color": light("ink"),
        "text.parse_math": False,  # a dollar sign in the name of a checkpoint is a dollar sign
        "xtick.color": light("muted"),
        "xtick.labelcolor": light("ink"),
        "xtick.labelsize": 11,
        "ytick.color": light("muted"),
        "ytick.labelcolor": light("ink"),
        "ytick.labelsize": 11,
    }
