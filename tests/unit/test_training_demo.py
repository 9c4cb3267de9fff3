"""The sentences of `make demo`: fit to be looked at, and none of them among those that the demo trains on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from training import sample

DEMO_FILE = Path(__file__).parents[2] / "deploy" / "demo" / "sentences.txt"

ACCEPTABLE = frozenset(
    {
        "The coffee is still hot.",
        "What did you have for lunch?",
        "She has already seen that movie.",
        "I have never been so tired in my life.",
        "There are two eggs left in the fridge.",
        "Could you close the door, please?",
        "The train that leaves at noon is always full.",
        "My keys were in my coat the whole time.",
        "Which song did they play at the wedding?",
        "We enjoyed walking along the river.",
        "The woman who lives upstairs is a dentist.",
        "It has been raining since Monday.",
        "I wonder where they bought that sofa.",
        "The more I sleep, the more tired I feel.",
        "The bus arrived ten minutes late.",
        "Both of my parents work at a hospital.",
        "Let me know when you get home.",
        "I can't find my glasses anywhere.",
        "The letters in the drawer belong to my grandfather.",
    }
)
"""Our own judgement; the file itself does not tell."""


def read_demo() -> list[str]:
    return DEMO_FILE.read_text("utf-8").splitlines()


def test_demo_sentences_are_mixed_and_come_once() -> None:
    sentences = read_demo()

    assert len(sentences) >= 30
    assert len(set(sentences)) == len(sentences)
    assert set(sentences) >= ACCEPTABLE
    assert 0.4 < len(ACCEPTABLE) / len(sentences) < 0.6
    verdicts = [sentence in ACCEPTABLE for sentence in sentences]
    assert sum(one != next_one for one, next_one in pairwise(verdicts)) > len(sentences) / 3


def test_demo_sentences_are_not_trained_on() -> None:
    """Else the demo would show memory, not judgement."""
    train, dev = sample.make(seed=0)

    made = {text.lower() for text, _ in (*train, *dev)}

    assert not [sentence for sentence in read_demo() if sentence.lower() in made]
