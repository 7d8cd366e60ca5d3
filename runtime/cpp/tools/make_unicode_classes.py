"""Write tokenizer/unicode_classes.hpp: which characters are letters and numbers to `tokenizers`, and lower case.

    python runtime/cpp/tools/make_unicode_classes.py

The library is asked about every character, because its version of Unicode decides how the Python runtime splits words.
Python and the system's PCRE2 have other versions. Lower case is Python's, because the Python runtime compares answers
in it.
"""

import unicodedata
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tokenizers.pre_tokenizers import ByteLevel

HEADER: Final = Path(__file__).parents[1] / "include/rpln/tokenizer/unicode_classes.hpp"
SURROGATES: Final = range(0xD800, 0xE000)
COLUMNS: Final = 4

TEMPLATE: Final = """\
// The characters that are letters (\\p{{L}}) and numbers (\\p{{N}}) to tokenizers {version}, and lower case as in
// Unicode {unicode}. Made by tools/make_unicode_classes.py.
#pragma once

namespace rpln::unicode {{

struct Range {{
  char32_t first;
  char32_t last;
}};

// The lower case of every `step`th character from `first` to `last` is `distance` characters further on.
struct LowerRange {{
  char32_t first;
  char32_t last;
  char32_t step;
  int distance;
}};

inline constexpr Range letter_ranges[] = {{
{letters}
}};

inline constexpr Range number_ranges[] = {{
{numbers}
}};

inline constexpr LowerRange lower_ranges[] = {{
{lower}
}};

}}  // namespace rpln::unicode
"""


def main() -> None:
    """Ask the library about every character, and write the header."""
    split = ByteLevel(add_prefix_space=False).pre_tokenize_str
    # A word is of letters only, or of numbers only: another letter after "a" belongs to the word of "a".
    letters, numbers = (
        [code for code in code_points() if len(split(neighbour + chr(code))) == 1] for neighbour in ("a", "1")
    )
    HEADER.write_text(
        TEMPLATE.format(
            version=version("tokenizers"),
            unicode=unicodedata.unidata_version,
            letters=rows_from(ranges_from(letters)),
            numbers=rows_from(ranges_from(numbers)),
            lower=rows_from(lower_ranges()),
        ),
        encoding="utf-8",
    )


def code_points() -> Iterator[int]:
    """Return every character that a text may hold."""
    return (code for code in range(0x110000) if code not in SURROGATES)


def ranges_from(codes: list[int]) -> list[str]:
    """Return the ranges of consecutive numbers in `codes`, which ascend."""
    starts = [code for before, code in zip([-2, *codes], codes, strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -2], strict=True) if after != code + 1]
    return [f"{{0x{first:X}, 0x{last:X}}}" for first, last in zip(starts, ends, strict=True)]


def lower_ranges() -> list[str]:
    """Return runs of neighbouring characters, or of every second one, whose lower case has the same distance."""
    runs: list[tuple[int, int, int, int]] = []
    for code in code_points():
        distance = ord(chr(code).lower()[0]) - code
        if not distance:
            continue
        first, last, step, known = runs[-1] if runs else (-9, -9, 1, 0)
        if distance == known and code - last in ((1, 2) if first == last else (step,)):
            runs[-1] = (first, code, code - last, distance)
        else:
            runs.append((code, code, 1, distance))
    return [f"{{0x{first:X}, 0x{last:X}, {step}, {distance}}}" for first, last, step, distance in runs]


def rows_from(ranges: list[str]) -> str:
    """Return `ranges` as lines of C++."""
    return "\n".join("    " + ", ".join(ranges[at : at + COLUMNS]) + "," for at in range(0, len(ranges), COLUMNS))


if __name__ == "__main__":
    main()
