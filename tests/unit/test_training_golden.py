"""Golden sentences meet what a device can get wrong: long rows, short ones, and both sides of a decision."""

from __future__ import annotations

import numpy as np

from training.golden import choose_golden


def make_scores(texts: list[str], *, labels: int = 2) -> np.ndarray:
    """Scores that depend on the text alone, of all labels and of any sureness."""
    rows = [np.random.default_rng(list(text.encode())).dirichlet(np.full(labels, 0.7)) for text in texts]
    return np.array(rows, dtype=np.float32)


TEXTS = [f"{number} " + "x" * (number % 97) for number in range(400)]


def test_golden_sentences_are_spread_over_lengths() -> None:
    golden = choose_golden(TEXTS, make_scores(TEXTS), rows=16)

    lengths = sorted(map(len, golden))
    assert len(set(golden)) == 16
    assert (lengths[0], lengths[-1]) == (min(map(len, TEXTS)), max(map(len, TEXTS)))
    assert max(np.diff(lengths)) < 25


def test_golden_sentences_are_on_both_sides_sure_and_by_a_hair() -> None:
    scores = make_scores(TEXTS)

    golden = choose_golden(TEXTS, scores, rows=16)

    chosen = scores[[TEXTS.index(text) for text in golden]]
    for label in (0, 1):
        sureness = chosen[chosen.argmax(-1) == label].max(-1)
        assert sureness.min() < 0.53
        assert sureness.max() > 0.99


def test_the_order_of_the_sentences_does_not_matter() -> None:
    turned = [*reversed(TEXTS), *TEXTS]

    assert choose_golden(turned, make_scores(turned)) == choose_golden(TEXTS, make_scores(TEXTS))


def test_of_many_labels_as_many_are_met_as_there_is_room_for() -> None:
    scores = make_scores(TEXTS, labels=30)

    golden = choose_golden(TEXTS, scores, rows=16)

    assert len(golden) == 16
    assert len({int(scores[TEXTS.index(text)].argmax()) for text in golden}) >= 8


def test_a_model_that_says_one_thing_has_golden_sentences_too() -> None:
    scores = np.tile(np.array([[0.3, 0.7]], dtype=np.float32), (len(TEXTS), 1))

    assert len(set(choose_golden(TEXTS, scores, rows=16))) == 16


def test_few_sentences_are_all_golden() -> None:
    assert choose_golden(["bb", "a", "bb"], make_scores(["bb", "a", "bb"])) == ["a", "bb"]
