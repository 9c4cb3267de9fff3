"""What a fit is made of: sentences, a classifier, batches, and the module that learns."""

from __future__ import annotations

from typing import NamedTuple

import pytorch_lightning as pl

from training import sources
from training.base_models import BaseModel
from training.config import FitConfig
from training.data import SentenceData
from training.model import SentenceClassifier
from training.runs import describe_settings
from training.sentences import LabelledSentences
from training.warm_start import load_origin


class Parts(NamedTuple):
    """The parts, which are the same in each process of a fit.

    Attributes:
        base: Classifier, tokenizer and their limits.
        dataset: Sentences, with labels in the order of the classifier's outputs.
        data: Batches.
        module: What learns.
        parent: The version that the weights are from, if any.
    """

    base: BaseModel
    dataset: LabelledSentences
    data: SentenceData
    module: SentenceClassifier
    parent: str | None


def prepare(config: FitConfig, *, parent: str | None = None) -> Parts:
    """Make the parts; the same settings make the same weights and batches.

    Args:
        config: Checked settings.
        parent: The version that a resumed fit was started from.

    Raises:
        UsageError: The dataset or the base model cannot be had, or the current version has other labels than the data.
        VersionNotFoundError: Nothing is current to start from.
        VerificationError: The base model's weights are not the published ones, or the current version is damaged.
    """
    pl.seed_everything(config.seed, verbose=False)
    dataset = sources.load(
        config.dataset, seed=config.seed, text_field=config.text_field, label_field=config.label_field
    )
    base, dataset, parent = load_origin(config, dataset=dataset, parent=parent)
    data = SentenceData(
        dataset,
        tokenizer=base.tokenizer,
        max_length=base.max_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    module = SentenceClassifier(
        base.model.train(),
        lr=config.lr,
        head_lr=config.head_lr,
        dropout=config.dropout,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
    )
    module.save_hyperparameters(describe_settings(config.model_dump(mode="json")))
    return Parts(base, dataset, data, module, parent)
