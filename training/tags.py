"""Brown's part-of-speech tags, mapped to the 12 universal ones.

Sources: W. N. Francis and H. Kucera, *Brown Corpus Manual* (1979), for Brown's tags; S. Petrov, D. Das and R. McDonald,
*A Universal Part-of-Speech Tagset* (2012), for the 12 classes. Where these leave a choice, Universal Dependencies
decides: possessive pronouns are PRON, subordinating conjunctions CONJ, ordinals ADJ, "not" PRT.
"""

import re
from typing import Final

TAGS: Final = ("NOUN", "VERB", "ADP", "DET", "ADJ", ".", "PRON", "ADV", "CONJ", "PRT", "NUM", "X")

_BROWN_TAGS_OF: Final = {
    "NOUN": "nn nns np nps nr nrs",
    "VERB": "vb vbd vbg vbn vbz be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz md",
    "ADP": "in",
    "DET": "at dt dti dts dtx wdt abl abn abx",
    "ADJ": "jj jjr jjs jjt ap od",
    ".": ". , : ( ) -- ' `` ''",
    "PRON": "pp ppl ppls ppo pps ppss pn wp wpo wps ex",
    "ADV": "rb rbr rbt rn wrb ql qlp wql",
    "CONJ": "cc cs",
    "PRT": "to rp *",
    "NUM": "cd",
    "X": "uh",
}
_UNIVERSAL_FROM_BROWN: Final = {brown: tag for tag, row in _BROWN_TAGS_OF.items() for brown in row.split()}

_FOREIGN: Final = "fw-"
_USAGE: Final = re.compile(
    r"(?<=.)-(tl|hl|nc|t|n)(?=-|$)"
)  # in a title, in a headline, cited; -t and -n are typing errors
_POSSESSIVE_OR_NEGATED: Final = re.compile(r"(?<=[a-z])[$*]+$")  # nn$ "man's", pp$$ "mine", dod* "didn't"
_MARKS: Final = re.compile(r"""[][.,;:?!()'"`/-]+""")


def universal_from_brown(brown_tag: str, word: str) -> str:
    """Return the universal tag of `word`, whose tag in Brown is `brown_tag`, such as "NN-TL", "PPSS+BER" or "FW-NN".

    A contraction is one word and has the tag of its first part: "he's" (pps+bez) is PRON, "didn't" (dod*) is VERB.
    Marks are always ".", also where Brown reads a hyphen or a slash as the preposition "to" or "per".

    Raises:
        ValueError: the tag is not one of Brown's.
    """
    if _MARKS.fullmatch(word):
        return "."
    tag = brown_tag.lower()
    if tag.startswith(_FOREIGN):
        return "X"
    first_part = _USAGE.sub("", tag).split("+")[0]
    base = _POSSESSIVE_OR_NEGATED.sub("", first_part)
    if base not in _UNIVERSAL_FROM_BROWN:
        raise ValueError(
            f"{brown_tag!r}, the tag of the word {word!r}, is not a tag of the Brown corpus. The table of its "
            f"tags is in {__name__}."
        )
    return _UNIVERSAL_FROM_BROWN[base]
