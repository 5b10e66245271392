"""Texts of any language: their words."""

import re
import unicodedata
from functools import lru_cache

# Scripts that are written without blanks: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
FILLER = set(  # words that do not tell what a text is about
    "a an and are as at be before but by do for from i if in into is it its me my not of on or so than that the then "
    "this to was when where which with you your find looking need want price lower".split())


def words(text: str) -> list[str]:
    """The words of a text in lower case, letters and digits alone; of a script without blanks pairs of characters."""
    if text.isascii():
        return re.findall(r"[a-z0-9]+", text.lower())
    text = unicodedata.normalize("NFKC", text).casefold()
    # Marks (M) belong to the letter before them: vowels in Hindi, accents.
    text = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in text)
    pairs = [run[i:i + 2] for run in DENSE.findall(text) for i in range(max(len(run) - 1, 1))]
    return DENSE.sub(" ", text).split() + pairs


@lru_cache(10_000)
def content(text: str) -> frozenset:
    """The words of a text that tell what it is about."""
    return frozenset(words(text)) - FILLER


def plain(text: str) -> str:
    """Lower case, white space collapsed: two texts that are equal after this count as the same."""
    return " ".join(text.lower().split())
