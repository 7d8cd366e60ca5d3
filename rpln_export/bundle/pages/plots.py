"""The plots of the page: drift, headroom, candidates and the curve of quantization."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from rpln_export.bundle.report import LargestValue, QuantizedFormReport
from rpln_export.plots.style import figure, legend_above, light, name_powers_of_ten
from rpln_export.plots.svg import svg_from_figure
from rpln_export.validation.comparison import TINY
from rpln_export.validation.drift import BlockDrift
from rpln_runtime.manifest import Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST: Final = 1e-9
"""What stands for a difference of zero on a logarithmic axis."""
MOST_TICKS: Final = 13
MOST_LETTERS: Final = 28
"""The most letters of a name in a legend or beside a bar."""
BAR_HEIGHT: Final = 30
BLOCK: Final = re.compile(r"encoder\.layer\.(?P<layer>\d+)(?:\.(?P<module>\w+))?")
LETTERS: Final = {"attention": "a", "crossattention": "c", "intermediate": "f"}
"""The letters that stand for the blocks of a layer."""


def drift_plot(drifts: Mapping[str, Sequence[BlockDrift]], *, title: str) -> Markup:
    """Return how far graphs drift from fp64, block by block, each by its label, beside eager torch's own noise."""
    longest = max(drifts.values(), key=len)
    with figure(height=290) as (plot, axes):
        for label, blocks in drifts.items():
            axes.plot([_relative(row.distance.largest, row) for row in blocks], label=_cut(label, MOST_LETTERS))
        axes.plot(
            [_relative(row.noise.largest, row) for row in longest],
            label="eager torch in fp32",
            color=light("muted"),
            marker="x",
            linestyle=(0, (2, 2)),
        )
        axes.set_yscale("log")
        name_powers_of_ten(axes.yaxis)
        axes.set_ylabel("largest difference / range")
        axes.set_xlabel("behind block (emb: embeddings, a: attention, f: feed-forward)")
        _name_ticks(axes, [_short(row.block) for row in longest])
        legend_above(axes)
        ends = ", ".join(
            f"{label} ends at {_relative(rows[-1].distance.largest, rows[-1]):.1e}" for label, rows in drifts.items()
        )
        noise = f"eager torch in fp32 ends at {_relative(longest[-1].noise.largest, longest[-1]):.1e}"
        description = f"Differences from fp64 relative to the range of the stream: {ends}; {noise}."
        return _inline(plot, title=title, description=description)


def headroom_plot(layers: Mapping[str, LargestValue], *, title: str) -> Markup:
    """Return by what factor the largest value of each layer could grow before fp16 overflows."""
    names, headrooms = [_short(layer) for layer in layers], [row.headroom for row in layers.values()]
    with figure(height=260) as (plot, axes):
        axes.bar(range(len(names)), [row - 1 for row in headrooms], bottom=1, color=light("blue"), width=0.65)
        axes.axhline(1.0, color=light("red"), linestyle="--", linewidth=1.5)
        axes.annotate(
            "below this line, fp16 overflows",
            (1.0, 1.0),
            xycoords=("axes fraction", "data"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=light("red"),
        )
        axes.set_yscale("log")
        name_powers_of_ten(axes.yaxis)
        axes.set_ylim(0.15, max(headrooms) * 4)
        axes.set_ylabel("times below the limit")
        axes.set_xlabel("layer")
        axes.grid(visible=False, axis="x")
        _name_ticks(axes, names)
        if len(names) <= MOST_TICKS:
            for place, value in enumerate(headrooms):
                axes.annotate(f"{value:,.0f}", (place, value), xytext=(0, 3), textcoords="offset points", ha="center")
        least = min(layers, key=lambda layer: layers[layer].headroom)
        return _inline(plot, title=title, description=f"The least is {layers[least].headroom:,.0f} times, in {least}.")


def candidates_plot(candidates: Sequence[Candidate], *, title: str) -> Markup:
    """Return the speeds of the candidates that were measured, with their intervals."""
    rows = [row for row in candidates if row.speedup is not None]
    names = [f"{_cut(row.form, MOST_LETTERS)}\non {_cut(row.provider, MOST_LETTERS)}" for row in rows]
    with figure(height=70 + 1.5 * BAR_HEIGHT * len(rows)) as (plot, axes):
        for place, row in enumerate(rows):
            assert row.speedup is not None
            low, high = row.speedup_low or row.speedup, row.speedup_high or row.speedup
            fastest = row.outcome == "chosen"
            axes.barh(
                place, row.speedup, color=light("blue" if fastest else "grid"), edgecolor=light("blue"), height=0.6
            )
            axes.errorbar(
                row.speedup,
                place,
                xerr=[[row.speedup - low], [high - row.speedup]],
                color=light("ink"),
                marker="",
                capsize=4,
                linewidth=1.5,
            )
            axes.annotate(
                f"{row.speedup:.2f}{' chosen' if fastest else ''}",
                (high, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, max(row.speedup_high or row.speedup or 0.0 for row in rows) * 1.3)
        axes.axvline(1.0, color=light("muted"), linestyle="--", linewidth=1)
        axes.set_xlabel("speed (1: the reference)")
        axes.grid(visible=False, axis="y")
        best = max(rows, key=lambda row: row.speedup or 0.0)
        return _inline(
            plot, title=title, description=f"The largest speed is {best.speedup:.2f}: {best.form} on {best.provider}."
        )


def quantization_plot(forms: Sequence[QuantizedFormReport], *, title: str) -> Markup:
    """Return how the difference falls as more blocks stay in fp32, for each form."""
    with figure(height=270) as (plot, axes):
        for form in forms:
            axes.plot(
                [len(row.kept) for row in form.curve],
                [max(row.rms, SMALLEST) for row in form.curve],
                label=_cut(form.form, MOST_LETTERS),
            )
        axes.set_xlabel("blocks that stay in fp32")
        axes.set_ylabel("difference (rms / range)")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        legend_above(axes)
        ends = "; ".join(
            f"{form.form} ends at {form.curve[-1].rms:.1e} with {len(form.curve[-1].kept)} blocks in fp32"
            for form in forms
        )
        return _inline(plot, title=title, description=f"{ends}.")


def _inline(figure: "Figure", *, title: str, description: str) -> Markup:
    """Return a figure as a part of a page."""
    return Markup(svg_from_figure(figure, title=title, description=description))  # noqa: S704 # its texts are escaped


def _relative(difference: float, row: BlockDrift) -> float:
    return max(difference / max(row.reach, TINY), SMALLEST)


def _short(block: str) -> str:
    """Return a block's name as it fits below an axis: "emb", "3", "3a" for an attention, "3c", or "3f"."""
    if block == "embeddings":
        return "emb"
    place = BLOCK.fullmatch(block)
    return _cut(block, 3) if place is None else place["layer"] + LETTERS.get(place["module"], "")


def _cut(text: str, most: int) -> str:
    """Return the text if it has at most so many letters, else its end, which tells the names of files apart."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _name_ticks(axes: "Axes", names: Sequence[str]) -> None:
    """Name the places of an axis, some of them where there are too many."""
    step = -(-len(names) // MOST_TICKS)
    axes.set_xticks(range(0, len(names), step), names[::step])
