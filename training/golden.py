"""Golden sentences: the few that a device has to score as they were scored when a version was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scorequeue.manifest import GoldenSentence
from training.figures import Scores
from training.predict import Predictor

GOLDEN_ROWS = 16
"""Enough to meet short and long rows and both sides of the decision, few enough to run before every start."""


def choose_golden(texts: Sequence[str], scores: Scores, *, rows: int = GOLDEN_ROWS) -> list[str]:
    """Sentences that differ in length and in score, none twice; the same ones in whatever order they are given.

    One half is of evenly spread lengths, the shortest and the longest among them. Of the other half each label has the
    sentence that gets it most surely and the one that gets it by a hair; what room is left is spread evenly over labels
    and sureness. In bfloat16 those decided by a hair differed by at most 0.025 from float32 (MiniLM on CoLA and on the
    made sentences), well within the 0.05 that a worker allows.

    Args:
        texts: Sentences to choose from.
        scores: (texts, labels) what the version says of them.
        rows: How many are wanted.
    """
    distinct = dict(zip(texts, scores, strict=True))
    by_length = sorted(distinct, key=lambda text: (len(text), text))
    if len(by_length) <= rows:
        return by_length
    chosen = dict.fromkeys(_spread(by_length, rows - rows // 2))
    by_score = sorted(
        (text for text in distinct if text not in chosen),
        key=lambda text: (int(distinct[text].argmax()), float(distinct[text].max()), text),
    )
    ends = []
    for label in range(scores.shape[1]):
        if got := [text for text in by_score if distinct[text].argmax() == label]:
            ends += [got[0], got[-1]]
    room = rows - len(chosen)
    chosen |= dict.fromkeys(_spread(list(dict.fromkeys(ends)), room))
    chosen |= dict.fromkeys(_spread([text for text in by_score if text not in chosen], rows - len(chosen)))
    return list(chosen)


def score_golden(folder: Path, texts: Sequence[str]) -> tuple[GoldenSentence, ...]:
    """Score sentences one by one in float32 on the CPU, with the folder as others will load it."""
    predictor = Predictor(folder)
    return tuple(GoldenSentence(text=text, scores=tuple(predictor.score([text])[0].tolist())) for text in texts)


def _spread(sequence: Sequence[str], count: int) -> list[str]:
    """So many of a sequence in even steps, its ends among them; all of it if it has no more."""
    if count >= len(sequence):
        return list(sequence)
    if count < 2:
        return list(sequence[:count])
    return [sequence[round(place * (len(sequence) - 1) / (count - 1))] for place in range(count)]
