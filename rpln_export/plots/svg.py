"""Figures as SVG that a page can hold: text stays text, and colours follow the page's light or dark scheme."""

import hashlib
import io
import re
import warnings
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from rpln_export.plots.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG: Final = "http://www.w3.org/2000/svg"
XLINK: Final = "http://www.w3.org/1999/xlink"
FONT: Final = "system-ui, sans-serif"
CLASS: Final = "rpln-plot"
"""The class of every plot, by which a page's style sheet finds it."""

_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")
_MATPLOTLIB_FONT: Final = re.compile(r"'DejaVu Sans'[^;]*")
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svg_from_figure(figure: "Figure", *, title: str, description: str) -> str:
    """Return a figure of `rpln_export.plots.style` as an `<svg>` element, which is also a file of its own.

    A screen reader reads `title` and `description` in place of the picture. The same figure gives the same text, byte
    by byte. The ids in it begin with a digest of its content, so that several figures fit into one page.
    """
    import matplotlib as mpl

    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rpln"}), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are in the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="svg", metadata=_NO_METADATA)
    root = ET.fromstring(written.getvalue())  # noqa: S314 # matplotlib wrote it just now
    digest = hashlib.sha256(f"{title}\n{description}\n{written.getvalue()}".encode()).hexdigest()
    prefix = f"plot-{digest[:10]}"
    _rename_ids(root, prefix=prefix)
    _name_colours(root)
    _describe(root, title=title, description=description, prefix=prefix)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    ET.indent(root, space="")
    return ET.tostring(root, encoding="unicode")


def _rename_ids(root: ET.Element, *, prefix: str) -> None:
    """Put `prefix` before the ids that something in the figure refers to, and remove all others."""
    href = f"{{{XLINK}}}href"
    used = {element.attrib[href].removeprefix("#") for element in root.iter() if href in element.attrib}
    for element in root.iter():
        for value in element.attrib.values():
            used.update(_REFERENCE.findall(value))
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == href:
                element.set(name, f"#{prefix}-{value.removeprefix('#')}")
            else:
                element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))
        name = element.attrib.pop("id", "")
        if name in used:
            element.set("id", f"{prefix}-{name}")


def _name_colours(root: ET.Element) -> None:
    """Replace each colour by its variable, matplotlib's fonts by the reader's, and its style sheet by our own."""
    variables = {colour.light: f"var(--plot-{name})" for name, colour in COLOURS.items()}
    any_colour = re.compile("|".join(variables))
    for element in root.iter():
        if element.tag == f"{{{SVG}}}style":
            element.text = _STYLE
        elif style := element.get("style"):
            style = _MATPLOTLIB_FONT.sub(FONT, style)
            element.set("style", any_colour.sub(lambda match: variables[match[0]], style))


def _describe(root: ET.Element, *, title: str, description: str, prefix: str) -> None:
    """Make the figure an image with a title and a description."""
    width, height = root.attrib["viewBox"].split()[2:]
    root.attrib |= {
        "class": CLASS,
        "role": "img",
        "aria-labelledby": f"{prefix}-title",
        "aria-describedby": f"{prefix}-description",
        "width": width,
        "height": height,
    }
    for place, (tag, name, text) in enumerate([("title", "title", title), ("desc", "description", description)]):
        element = ET.Element(f"{{{SVG}}}{tag}", id=f"{prefix}-{name}")
        element.text = text
        root.insert(place, element)


def _style() -> str:
    """Return the style sheet of a figure. It says the same in every figure, so one page may hold it many times."""
    light = " ".join(f"--plot-{name}: {colour.light};" for name, colour in COLOURS.items())
    dark = " ".join(f"--plot-{name}: {colour.dark};" for name, colour in COLOURS.items())
    return (
        f".{CLASS} {{ max-width: 100%; height: auto; {light} }}\n"
        f".{CLASS} * {{ stroke-linejoin: round; stroke-linecap: butt; }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ .{CLASS} {{ {dark} }} }}"
    )


_STYLE: Final = _style()
