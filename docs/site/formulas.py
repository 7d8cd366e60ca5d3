"""Formulas of TeX become MathML, which browsers show by themselves: no script runs, and nothing is fetched."""

import re
from typing import Final

from latex2mathml.converter import convert

DISPLAYED: Final = re.compile(r"^\$\$\n?(.+?)\n?\$\$$", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"(?<![\\$`])\$(?!\s)([^$\n]+?)(?<!\s)\$")


def formulas_to_mathml(prose: str) -> str:
    """Replace `$$...$$` (a paragraph) and `$...$` (within a line) in a text of Markdown."""
    prose = DISPLAYED.sub(lambda match: f'<div class="formula">{convert(match[1], display="block")}</div>', prose)
    return INLINE.sub(lambda match: f'<span class="formula">{convert(match[1])}</span>', prose)
