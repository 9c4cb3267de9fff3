"""Made sentences: a seeded grammar of minimal pairs, so that a first fit needs no network and no data.

Each pair differs in one point of grammar (PHENOMENA) and in nothing else, so that neither words nor
length tell which of the two is acceptable.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from training.sample_clauses import CLAUSES
from training.sample_forms import FORMS
from training.sample_words import AFTER, BEFORE, LEXEMES, PHRASES

PHENOMENA = FORMS | CLAUSES
"""Templates by what parts the two sentences of a pair."""

TRAIN_PAIRS = 4500
DEV_PAIRS = 300

CHOICE = re.compile(r"<([^<>|]*)\|([^<>|]*)>")
SLOT = re.compile(r"\{(\w+?)(\d*)(?:\.(\w+))?\}")

Labelled = tuple[str, int]
"""A sentence and its label: 1 is acceptable."""


class Pair(NamedTuple):
    """Two sentences that differ in one point of grammar."""

    phenomenon: str
    acceptable: str
    unacceptable: str


def make(
    *, seed: int, train_pairs: int = TRAIN_PAIRS, dev_pairs: int = DEV_PAIRS
) -> tuple[list[Labelled], list[Labelled]]:
    """Make training and validation sentences.

    Args:
        seed: The same seed gives the same sentences, on every platform.
        train_pairs: Pairs to train on.
        dev_pairs: Pairs to validate on.

    Returns:
        Both parts in random order, half of each acceptable. No sentence is in both, and none has two labels.
    """
    order = random.Random(seed)
    pairs = make_pairs(train_pairs + dev_pairs, order=order)
    order.shuffle(pairs)
    parts = []
    for part in (pairs[dev_pairs:], pairs[:dev_pairs]):
        rows = [(pair.acceptable, 1) for pair in part] + [(pair.unacceptable, 0) for pair in part]
        order.shuffle(rows)
        parts.append(rows)
    return parts[0], parts[1]


def make_pairs(count: int, *, order: random.Random) -> list[Pair]:
    """Make pairs, the phenomena in turn; no sentence comes twice."""
    seen: set[str] = set()
    pairs: list[Pair] = []
    # A phenomenon with more templates gets more pairs, but not in full proportion.
    names = [name for name, templates in PHENOMENA.items() for _ in range(2 + len(templates) // 5)]
    while len(pairs) < count:
        pair = make_pair(names[len(pairs) % len(names)], order=order)
        if pair.acceptable != pair.unacceptable and seen.isdisjoint(pair[1:]):
            seen.update(pair[1:])
            pairs.append(pair)
    return pairs


def make_pair(phenomenon: str, *, order: random.Random) -> Pair:
    """Fill one template of a phenomenon twice with the same words, once with each of its choices."""
    template = order.choice(PHENOMENA[phenomenon])
    # The choices stay in place while words are filled in, so that both sentences get the same words.
    filled = _fill(template, order=order)
    before, after = "", ""
    if not template.endswith(("?", ".")):
        before, after = order.choice(BEFORE), order.choice(AFTER)
    good, bad = (_finish(before + CHOICE.sub(side, filled) + after) for side in (r"\1", r"\2"))
    return Pair(phenomenon, good, bad)


def _fill(template: str, *, order: random.Random) -> str:
    """Replace slots; one name is one word within a template, phrases bring their own words."""
    bound: dict[str, dict[str, str] | str] = {}

    def replace(slot: re.Match[str]) -> str:
        category, digit, form = slot.groups()
        name = category + digit
        if name not in bound:
            if form is not None:
                bound[name] = order.choice([word for word in LEXEMES[category] if word not in bound.values()])
            else:
                bound[name] = _fill(order.choice(PHRASES[category]), order=order)
        word = bound[name]
        return word if isinstance(word, str) else word[form]

    return SLOT.sub(replace, template)


def _finish(text: str) -> str:
    """Close gaps that empty choices leave, choose a or an, capitalise, and end with a mark."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([?.,])", r"\1", text)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:] + ("" if text.endswith(("?", ".")) else ".")
