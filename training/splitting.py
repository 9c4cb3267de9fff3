"""Which rows are learned from and which are validated on, by rules that depend on nothing but the text."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

DEV_SHARE = 0.1
"""Part of the texts that is validated on where the data does not say which."""

_PERSON = b"scorequeue-dev"
"""Keeps the rule apart from other people's hashes of the same texts, which may have chosen the rows."""


def normalise(text: str) -> str:
    """The text without what makes no difference to most models: case, width, composition and spacing."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_for_dev(text: str) -> bool:
    """Whether a text is validated on: a hash of it decides, so that it stays on its side while the data grows.

    A champion fitted last month has then never learned from a row that it is judged on today. Nothing else may enter
    the rule: no seed, no order, no neighbour.
    """
    key = normalise(text).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(key, digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "big") < DEV_SHARE * 2**64


def find_leaks(train: Sequence[str], held_out: Iterable[str]) -> frozenset[int]:
    """Positions in ``train`` of texts that are among those held out, by their normalised form."""
    judged = {normalise(text) for text in held_out}
    return frozenset(place for place, text in enumerate(train) if normalise(text) in judged)


def count_contradictions(texts: Sequence[str], labels: Sequence[str]) -> int:
    """How many texts come with two labels or more."""
    first: dict[str, str] = {}
    doubtful = {text for text, label in zip(texts, labels, strict=True) if first.setdefault(text, label) != label}
    return len(doubtful)


def order_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Label names in the order of their indices: whole numbers by value, else by their characters."""
    distinct = set(names)
    if all(is_whole(name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def is_whole(name: str) -> bool:
    """Whether a label's name is a whole number as people write it: 7, -7, not 07."""
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(name)) == name
