"""What a fit starts from: a base model, or the registry's current version."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

from scorequeue.errors import UsageError
from scorequeue.logs import fields
from scorequeue.registry import Registry
from training import base_models
from training.base_models import BaseModel
from training.config import FitConfig
from training.sentences import LabelledSentences, Split

log = logging.getLogger(__name__)


class Origin(NamedTuple):
    """A start.

    Attributes:
        base: Classifier and tokenizer; its name is the base model's, also of a version that was made from it.
        dataset: The sentences, with labels in the order of the classifier's outputs.
        parent: The version that was started from; None for a base model.
    """

    base: BaseModel
    dataset: LabelledSentences
    parent: str | None


def load_origin(config: FitConfig, *, dataset: LabelledSentences, parent: str | None = None) -> Origin:
    """Load what a fit starts from.

    Args:
        config: Says whether it starts from the current version, and if not, from which base model.
        dataset: What is learned from.
        parent: The version that a resumed fit started from, whatever is current now.

    Raises:
        UsageError: As `base_models.load`; or the version's labels are not those of the data.
        VersionNotFoundError: Nothing is current.
        VerificationError: The version does not match its manifest.
    """
    if not config.warm_start:
        base = base_models.load(config.base_model, labels=dataset.labels, max_length=config.max_length)
        return Origin(base, dataset, None)
    if parent is None and "base_model" in config.model_fields_set:
        log.info("--warm-start starts from the current version: --base-model is left aside", extra=fields("warm_start"))
    registry = Registry(config.registry)
    parent = registry.resolve(parent)
    manifest = registry.verify(parent)
    if set(manifest.labels) != set(dataset.labels):
        raise UsageError(
            f"--warm-start: version {parent} has the labels {', '.join(manifest.labels)}, "
            f"{config.dataset} has {', '.join(dataset.labels)}; start from a base model instead"
        )
    base = base_models.load(str(registry.path(parent)), labels=manifest.labels, max_length=config.max_length)
    return Origin(base._replace(name=manifest.base_model), _renumber(dataset, labels=manifest.labels), parent)


def _renumber(dataset: LabelledSentences, *, labels: tuple[str, ...]) -> LabelledSentences:
    """The same sentences with their labels in another order."""
    index = [labels.index(label) for label in dataset.labels]

    def convert(split: Split) -> Split:
        return replace(split, labels=tuple(index[label] for label in split.labels))

    test = None if dataset.test is None else convert(dataset.test)
    return replace(dataset, labels=labels, train=convert(dataset.train), dev=convert(dataset.dev), test=test)
