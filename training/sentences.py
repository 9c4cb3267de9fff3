"""What a dataset is once it is read: sentences with their labels, in parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Split:
    """Sentences with their labels.

    Attributes:
        texts: The sentences.
        labels: For each sentence, the index of its label.
        sources: For each sentence, where the data says that it comes from; empty where it says nothing.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self, names: tuple[str, ...]) -> str:
        """sha256 of labels and texts in order; two versions that number the labels differently get the same.

        Args:
            names: Label names by index.
        """
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{names[label]}\t{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def count_labels(self, names: tuple[str, ...]) -> dict[str, int]:
        """Rows per label, by name, in the order of the names."""
        counts = Counter(self.labels)
        return {name: counts[index] for index, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class LabelledSentences:
    """A dataset to fit on.

    Attributes:
        name: As the user named it.
        labels: Label names by index.
        train: What is learned from.
        dev: What is validated on.
        test: What is kept for `training evaluate`; None where the data has no such part.
        fields: The columns that texts and labels were read from; empty where the data has no named columns.
        left_out: Rows that were not taken, by reason.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    dev: Split
    test: Split | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        """What a manifest keeps of the data.

        Returns:
            Name; ``fingerprint``, which changes with a text, its label or their order; ``dev_fingerprint``, which tells
            whether two versions were validated on the same rows; rows, rows per label, columns, rows left out.
        """
        train, dev = (split.fingerprint(self.labels) for split in (self.train, self.dev))
        return {
            "name": self.name,
            "fingerprint": hashlib.sha256(f"{train} {dev}".encode()).hexdigest(),
            "dev_fingerprint": dev,
            "train_rows": len(self.train),
            "dev_rows": len(self.dev),
            "train_labels": self.train.count_labels(self.labels),
            "dev_labels": self.dev.count_labels(self.labels),
            "fields": dict(self.fields),
            "left_out": dict(self.left_out),
        }
