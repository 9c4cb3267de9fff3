"""Two versions side by side: figures on the same rows, sentences whose label flips, and what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from scorequeue.errors import UsageError
from scorequeue.manifest import Manifest
from scorequeue.registry import Registry
from training.bootstrap import Difference, paired_difference
from training.contest import Rows, enter, find_rows
from training.figures import Figures, Scores, measure
from training.sources import Part

FlipKind = Literal["harm", "gain", "other"]


class Flip(NamedTuple):
    """A sentence to which the two give different labels.

    Attributes:
        kind: ``harm``: right before, wrong after; ``gain``: the other way round; ``other``: wrong in both, differently.
        text: The sentence.
        label: Its true label.
        first_label: What the first version says.
        second_label: What the second one says.
        first_score: What the first gives to the true label.
        second_score: What the second gives to it.
    """

    kind: FlipKind
    text: str
    label: str
    first_label: str
    second_label: str
    first_score: float
    second_score: float


class Change(NamedTuple):
    """Something that their manifests say differently; None where one says nothing."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Diff:
    """How a second version differs from a first one.

    Attributes:
        first: The first version.
        second: The second one.
        rows_from: Where the rows come from.
        figures: The figures of both, on these rows.
        difference: How much higher the second one's correlation is, with a 95 % interval.
        flips: Sentences that changed their label: harm first, then gain; the surest change first.
        changes: What the manifests say differently.
    """

    first: str
    second: str
    rows_from: str
    figures: tuple[Figures, Figures]
    difference: Difference
    flips: tuple[Flip, ...]
    changes: tuple[Change, ...]


def compare(registry: Registry, first: str, second: str, *, part: Part | None = None) -> Diff:
    """Score two versions on the same rows: those of a dataset's part, else of the second, else of the first.

    Raises:
        VersionNotFoundError: There is no such version.
        VerificationError: A version is not what its manifest says, does not load, or its scores are not finite.
        UsageError: Their labels differ, there are no rows to compare on, or no such dataset.
    """
    before, after = enter(registry, first), enter(registry, second)
    labels = after.manifest.labels
    if set(labels) != set(before.manifest.labels):
        raise UsageError(
            f"labels should be the same but {first} has {', '.join(before.manifest.labels)}, "
            f"{second} has {', '.join(labels)}; compare versions of the same task"
        )
    rows = find_rows([after, before], labels=labels, part=part)
    scores = (before.score(rows.texts, labels=labels), after.score(rows.texts, labels=labels))
    return Diff(
        first=first,
        second=second,
        rows_from=rows.come_from,
        figures=(measure(scores[0], rows.labels), measure(scores[1], rows.labels)),
        difference=paired_difference(
            rows.labels, scores[0].argmax(-1), scores[1].argmax(-1), label_count=len(labels)
        ),
        flips=find_flips(rows, *scores, labels=labels),
        changes=tuple(find_changes(before.manifest, after.manifest)),
    )  # fmt: skip


def find_flips(rows: Rows, first: Scores, second: Scores, *, labels: tuple[str, ...]) -> tuple[Flip, ...]:
    """The sentences whose label changes: harm, then gain, then wrong in both; in each the surest change first."""
    before, after = first.argmax(-1), second.argmax(-1)  # (rows,)
    flips = []
    for row in (before != after).nonzero()[0]:
        true = int(rows.labels[row])
        kind: FlipKind = "harm" if before[row] == true else "gain" if after[row] == true else "other"
        flips.append(
            Flip(
                kind=kind,
                text=rows.texts[row],
                label=labels[true],
                first_label=labels[before[row]],
                second_label=labels[after[row]],
                first_score=float(first[row, true]),
                second_score=float(second[row, true]),
            )
        )
    order = ("harm", "gain", "other")
    return tuple(sorted(flips, key=lambda flip: (order.index(flip.kind), -abs(flip.second_score - flip.first_score))))


def find_changes(first: Manifest, second: Manifest) -> Iterator[Change]:
    """What the manifests say differently of model, data, settings, code and packages."""
    before, after = (dict(_flatten(_of_interest(manifest))) for manifest in (first, second))
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


def _of_interest(manifest: Manifest) -> dict[str, Any]:
    names = ("base_model", "labels", "max_length", "parent", "seed", "git_commit", "dataset")
    facts = manifest.model_dump(mode="json", include=set(names))
    # The config repeats dataset, base model and seed as they were asked for; once is enough.
    config = {name: value for name, value in manifest.training_config.items() if name not in names}
    return {name: facts[name] for name in names} | {"config": config, "package": manifest.packages}


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
