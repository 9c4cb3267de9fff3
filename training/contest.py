"""Two versions on the same labelled rows, scored now, by the same code, in float32."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from scorequeue.errors import InputError, UsageError, VerificationError, VersionError
from scorequeue.manifest import GoldenSentence, Manifest
from scorequeue.registry import Registry
from training.confusion import Counts
from training.evaluate import load_rows, read_rows
from training.figures import Scores
from training.gate import Contest, OwnRows
from training.predict import Predictor
from training.sources import Part

LATENCY_SENTENCES = 8
LATENCY_ROUNDS = 7
"""Enough for a median; with MiniLM on two cores a round of both takes a tenth of a second."""


class Rows(NamedTuple):
    """Labelled rows to judge on.

    Attributes:
        texts: The sentences.
        labels: True label indices, by the labels of whoever asked: (rows,) int64.
        come_from: A version's name, or a dataset and its split.
    """

    texts: tuple[str, ...]
    labels: Counts
    come_from: str


class Entrant(NamedTuple):
    """A verified version that is loaded.

    Attributes:
        manifest: Its manifest.
        folder: Its folder.
        predictor: It.
    """

    manifest: Manifest
    folder: Path
    predictor: Predictor

    def score(self, texts: Sequence[str], *, labels: tuple[str, ...]) -> Scores:
        """Score texts: (texts, labels) float32, the columns in the order of these labels.

        Raises:
            VerificationError: A score is not a finite number.
        """
        scores: Scores = self.predictor.score(texts).numpy()
        if not np.isfinite(scores).all():
            raise VerificationError(f"{self.folder} gives scores that are not finite; fit or import it again")
        return scores[:, [self.manifest.labels.index(label) for label in labels]]

    def read_own(self, *, labels: tuple[str, ...]) -> Rows | None:
        """The rows that it was evaluated on, their labels as indices of these; None if it has none.

        Raises:
            VerificationError: They are not as they were written.
        """
        evaluation = read_rows(self.folder, labels=self.manifest.labels)
        if evaluation is None or not len(evaluation.rows):
            return None
        place = np.array([labels.index(label) for label in self.manifest.labels])  # (labels,)
        return Rows(evaluation.rows.texts, place[list(evaluation.rows.labels)], self.manifest.version)


def enter(registry: Registry, version: str) -> Entrant:
    """Verify a version and load it in float32 on the CPU.

    Raises:
        VersionNotFoundError: There is no such version.
        VerificationError: Its files are not what its manifest says, or it does not load.
    """
    manifest, folder = registry.verify(version), registry.path(version)
    try:
        return Entrant(manifest, folder, Predictor(folder))
    except InputError as error:
        raise VerificationError(str(error)) from error


def find_rows(entrants: Sequence[Entrant], *, labels: tuple[str, ...], part: Part | None = None) -> Rows:
    """The rows to judge on: those of a dataset's part, else those that the first entrant has, else the next one's.

    Args:
        entrants: Versions with the same labels, in any order of these.
        labels: What the labels of the rows count by.
        part: Which rows; None takes what a version was evaluated on.

    Raises:
        UsageError: No entrant has rows, so a dataset is needed; or there is no such dataset.
        InputError: The dataset cannot be read.
        VerificationError: A version's rows are not as they were written.
    """
    if part is not None:
        rows = load_rows(part, labels=labels)
        return Rows(rows.texts, np.array(rows.labels, np.int64), f"dataset {part.dataset}, split {part.split}")
    for entrant in entrants:
        if (own := entrant.read_own(labels=labels)) is not None:
            return own
    names = " and ".join(entrant.manifest.version for entrant in entrants)
    raise UsageError(f"{names}: no evaluated rows to judge on; name some with --dataset (and --split)")


def hold(
    registry: Registry, challenger: str, champion: str | None, *, part: Part | None = None, obstacle: str = ""
) -> Contest:
    """Score challenger and champion on the same rows, check the golden sentences and take the times.

    Args:
        registry: Where both are.
        challenger: The version that wants to go live.
        champion: The one that is current; None where nothing is.
        part: What to judge on; None takes the rows that the challenger was evaluated on, else the champion's. The
            champion's own ones are scored beside the challenger's, unless these include them.
        obstacle: Why it is not known what is current; empty if it is known, or if nothing ever was.

    Raises:
        VersionNotFoundError: There is no such challenger.
        VerificationError: The challenger's files are not what its manifest says, it does not load, or its scores are
            not finite. What is wrong with the champion comes as the contest's ``obstacle``.
        UsageError: There are no rows to judge on, or no such dataset.
    """
    ours = enter(registry, challenger)
    labels = ours.manifest.labels
    theirs = None
    if champion is not None:
        try:
            theirs = enter(registry, champion)
        except VersionError as error:
            obstacle = str(error)
    if theirs is not None and set(theirs.manifest.labels) != set(labels):
        obstacle = f"its labels are {_listed(theirs.manifest.labels)}, the challenger's {_listed(labels)}"
        theirs = None
    rows = find_rows([ours] if theirs is None else [ours, theirs], labels=labels, part=part)
    champion_scores, champions_own, latency_ms = None, None, None
    exams = [rows]
    if theirs is not None:
        try:
            # Where a person has chosen the rows, these are the only ones: those of before may be wrong by now.
            other = None if part is not None else theirs.read_own(labels=labels)
            # Among those of data that has grown they are asked already.
            if other is not None and not are_among(other, rows):
                exams.append(other)
            champion_scores, *rest = score_each(theirs, exams, labels=labels)
            champions_own = rest[0] if rest else None
        except VerificationError as error:
            obstacle, exams = str(error), [rows]
        else:
            latency_ms = time_lone_sentences(ours.predictor, theirs.predictor, texts=_spread(rows.texts))
    challenger_scores, *rest = score_each(ours, exams, labels=labels)
    return Contest(
        challenger=challenger,
        champion=champion,
        rows_from=rows.come_from,
        labels=rows.labels,
        challenger_scores=challenger_scores,
        champion_scores=champion_scores,
        golden_difference=compare_golden(ours.predictor, ours.manifest.golden),
        golden_rows=len(ours.manifest.golden),
        latency_ms=latency_ms,
        obstacle=obstacle,
        is_same=theirs is not None and _same_weights(ours.manifest, theirs.manifest),
        own=None if champions_own is None else OwnRows(exams[1].labels, rest[0], champions_own),
    )


def are_among(some: Rows, rows: Rows) -> bool:
    """Whether all of some rows, texts with labels, are among others."""

    def count(rows: Rows) -> Counter[tuple[str, int]]:
        return Counter(zip(rows.texts, rows.labels.tolist(), strict=True))

    return not count(some) - count(rows)


def score_each(entrant: Entrant, exams: Sequence[Rows], *, labels: tuple[str, ...]) -> list[Scores]:
    """Score several sets of rows, what they share once: (rows, labels) float32 for each.

    Raises:
        VerificationError: A score is not a finite number.
    """
    place = {text: number for number, text in enumerate(dict.fromkeys(text for rows in exams for text in rows.texts))}
    scores = entrant.score(tuple(place), labels=labels)  # (distinct texts, labels)
    return [scores[[place[text] for text in rows.texts]] for rows in exams]


def compare_golden(predictor: Predictor, golden: Sequence[GoldenSentence]) -> float | None:
    """Largest difference of golden scores from the stored ones, each sentence alone; None if there are none."""
    if not golden:
        return None
    found = np.concatenate([predictor.score([sentence.text]).numpy() for sentence in golden])  # (rows, labels)
    return float(np.abs(found - np.array([sentence.scores for sentence in golden], np.float32)).max())


def time_lone_sentences(
    ours: Predictor, theirs: Predictor, *, texts: Sequence[str], rounds: int = LATENCY_ROUNDS
) -> tuple[float, float]:
    """Median milliseconds of a sentence by itself, for each of two predictors, which take turns."""
    pair = (ours, theirs)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for text in texts:
            # Who goes second finds warm caches, so they take turns in that too.
            for side in (0, 1) if number % 2 else (1, 0):
                started_at = time.perf_counter()
                pair[side].score([text])
                if number:  # the first round warms up
                    times[side].append(1000 * (time.perf_counter() - started_at))
    return median(times[0]), median(times[1])


def _same_weights(ours: Manifest, theirs: Manifest) -> bool:
    def weights(manifest: Manifest) -> dict[str, str]:
        return {
            name: digest
            for name, digest in manifest.files.items()
            if name.endswith(".safetensors") or name == "tokenizer.json"
        }

    return weights(ours) == weights(theirs) and ours.max_length == theirs.max_length


def _spread(texts: Sequence[str]) -> list[str]:
    """A few texts of evenly spread lengths."""
    by_length = sorted(texts, key=len)
    places = range(1, 2 * LATENCY_SENTENCES, 2)  # the middles of equal parts
    return [by_length[place * len(by_length) // (2 * LATENCY_SENTENCES)] for place in places]


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels)
