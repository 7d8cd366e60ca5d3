"""The plot of a report: a bar for each contender in each case, with the interval of its median."""

from rpln_export.bench.report import BenchReport
from rpln_export.plots.style import SERIES, figure, legend_above, light
from rpln_export.plots.svg import svg_from_figure


def plot_report(report: BenchReport) -> str:
    """Return the median latencies of a report as an SVG file: a group of bars for each case."""
    cases = list(dict.fromkeys(row.case for row in report.results))
    names = [contender.name for contender in report.contenders]
    height = 0.8 / len(names)
    with figure(height=90 + 22 * len(cases) * len(names)) as (drawn, axes):
        for place, name in enumerate(names):
            rows = [row for row in report.results if row.contender == name]
            medians = [row.latency.p50 for row in rows]
            axes.barh(
                [cases.index(row.case) + (place - (len(names) - 1) / 2) * height for row in rows],
                [median.value * 1e3 for median in medians],
                height=height * 0.9,
                color=light(SERIES[place % len(SERIES)]),
                xerr=[
                    [(m.value - (m.value if m.low is None else m.low)) * 1e3 for m in medians],
                    [((m.value if m.high is None else m.high) - m.value) * 1e3 for m in medians],
                ],
                ecolor=light("ink"),
                label=name,
            )
        axes.set_yticks(range(len(cases)), cases)
        axes.invert_yaxis()
        axes.set_xlabel("median latency in ms")
        legend_above(axes)
        return svg_from_figure(drawn, title="Latency of bundles", description=" ".join(report.sentences))
