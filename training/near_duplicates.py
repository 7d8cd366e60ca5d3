"""Groups of texts that say nearly the same or belong to one thread, so that a split can keep each group in one part.

Texts are compared by sketches, the smallest hashes of their runs of words: two sketches share about as much as the two
texts do (A. Broder, *On the resemblance and containment of documents*, 1997).
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

_Item = TypeVar("_Item")

_RUN: Final = 4  # words
_SKETCH: Final = 32  # hashes
_ALIKE: Final = 0.4  # share of the smaller sketch that is also in the other
_BOILERPLATE: Final = 20  # a run in more texts than this is the footer of a mailing list or of a provider


def groups_of_similar(
    items: Sequence[_Item], *, text_of: Callable[[_Item], str], topic_of: Callable[[_Item], str | None]
) -> list[list[_Item]]:
    """Return the items in groups, in the order of their first items.

    Two items are in one group if their texts are much alike, if they have the same topic (unless that is None), or if a
    chain of such pairs joins them.
    """
    leader = list(range(len(items)))

    def first_of(index: int) -> int:
        while leader[index] != index:
            leader[index] = index = leader[leader[index]]
        return index

    for one, other in chain(
        _of_one_topic([topic_of(item) for item in items]), _alike([text_of(item) for item in items])
    ):
        first, second = sorted((first_of(one), first_of(other)))
        leader[second] = first
    groups: dict[int, list[_Item]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[first_of(index)].append(item)
    return list(groups.values())


def _of_one_topic(topics: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    first_with: dict[str, int] = {}
    for index, topic in enumerate(topics):
        if topic is not None:
            yield first_with.setdefault(topic, index), index


def _alike(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    sketches = _sketches(texts)
    with_hash: dict[int, list[int]] = defaultdict(list)
    for index, sketch in enumerate(sketches):
        common = Counter(other for value in sketch for other in with_hash[value])
        for other, count in common.items():
            if count >= _ALIKE * min(len(sketch), len(sketches[other])):
                yield other, index
        for value in sketch:
            with_hash[value].append(index)


def _sketches(texts: Sequence[str]) -> list[list[int]]:
    runs_of_text = [_hashes_of_runs(text) for text in texts]
    texts_with = Counter(value for values in runs_of_text for value in values)
    return [sorted(v for v in values if texts_with[v] <= _BOILERPLATE)[:_SKETCH] for values in runs_of_text]


def _hashes_of_runs(text: str) -> set[int]:
    words = "".join(character if character.isalpha() else " " for character in text.lower()).split()
    starts = range(max(1, len(words) - _RUN + 1))
    return {zlib.crc32(" ".join(words[start : start + _RUN]).encode()) for start in starts}
