"""Figures as SVG: text stays text, ids and colours suit any page, and the same figure gives the same bytes."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rpln_export.plots.style import COLOURS, DASHES, MARKERS, SERIES, figure, light
from rpln_export.plots.svg import SVG, svg_from_figure


def drawn(*, values: Sequence[float] = (3, 1, 2), label: str = "fp16", title: str = "Drift") -> str:
    with figure(height=200) as (plot, axes):
        axes.plot([1, 2, 3], values, label=label)
        axes.bar([1, 2], [1, 2], color=light("orange"))
        axes.legend()
        return svg_from_figure(plot, title=title, description="Two lines.")


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{{{SVG}}}text")]


def ids(svg: str) -> list[str]:
    return [element.attrib["id"] for element in ET.fromstring(svg).iter() if "id" in element.attrib]


def test_a_figure_is_an_image_with_a_title_and_a_description() -> None:
    root = ET.fromstring(drawn(title="Drift <b>"))
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert root.get("role") == "img"
    assert named[root.get("aria-labelledby")] == "Drift <b>"
    assert named[root.get("aria-describedby")] == "Two lines."


def test_text_is_text_in_the_fonts_of_the_reader() -> None:
    name = "$x_1$ <script>alert(1)</script> 层"
    svg = drawn(label=name)
    assert name in texts(svg)
    assert "<script" not in svg
    assert "DejaVu" not in svg


def test_every_colour_is_a_variable_with_a_light_and_a_dark_value() -> None:
    svg = drawn()
    outside_the_style_sheet = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    assert "var(--plot-blue)" in outside_the_style_sheet
    assert "var(--plot-orange)" in outside_the_style_sheet
    assert re.findall(r"#[0-9a-f]{6}\b", outside_the_style_sheet) == []
    for name, colour in COLOURS.items():
        assert f"--plot-{name}: {colour.light};" in svg
        assert f"--plot-{name}: {colour.dark};" in svg


def test_the_style_sheet_says_nothing_of_what_is_outside_of_plots() -> None:
    (sheet,) = re.findall(r"<style.*?>(.*?)</style>", drawn(), flags=re.DOTALL)
    selectors = re.findall(r"([^{};]+)\{", re.sub(r"@media[^{]*\{", "", sheet))
    assert {selector.split()[0] for selector in selectors} == {".rpln-plot"}


def test_ids_of_several_figures_do_not_clash_and_all_references_lead_somewhere() -> None:
    pages = [drawn(), drawn(values=(1, 2, 2)), drawn(title="Headroom")]
    everywhere = [name for svg in pages for name in ids(svg)]
    assert len(everywhere) == len(set(everywhere))
    for svg in pages:
        assert set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg)) <= {
            pair for name in ids(svg) for pair in ((name, ""), ("", name))
        }


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert drawn() == drawn()


def test_series_differ_in_more_than_their_colours() -> None:
    assert len(SERIES) == len(set(MARKERS)) == len({repr(dash) for dash in DASHES})
    lights = [colour.light for colour in COLOURS.values()]
    assert len(lights) == len(set(lights))


def test_colours_contrast_with_their_pages() -> None:
    for name in set(COLOURS) - {"grid"}:
        needed = 4.5 if name in {"ink", "muted"} else 3.0  # WCAG: for text, and for graphics
        assert _contrast(COLOURS[name].light, "#ffffff") >= needed, name
        assert _contrast(COLOURS[name].dark, "#14181e") >= needed, name


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours by WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
