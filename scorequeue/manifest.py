"""What a checkpoint version says about itself, and the line that each decision about ``current`` leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, field_validator

MANIFEST_FORMAT = 1
"""Raised when a reader of today could misread a manifest of tomorrow."""

MANIFEST_NAME = "manifest.json"

REPORT_NAME = "report.html"


class GoldenSentence(BaseModel):
    """A sentence whose scores are known; a device must repeat them before it may claim work.

    Attributes:
        text: The sentence.
        scores: Probability of each label, in label order, computed in float32 on a CPU.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    scores: tuple[FiniteFloat, ...]


class ManifestDraft(BaseModel):
    """What a trainer knows about a checkpoint before it is published.

    Attributes:
        base_model: Name, folder name or hub id that training started from.
        labels: Label names in the order of the model's outputs.
        max_length: Most tokens of a text that the model reads, special tokens included.
        parent: Version whose weights this one was warm-started from, if any.
        dataset: Name, fingerprint, rows and the like, for people and for ``training diff``.
        training_config: The settings of the fit.
        seed: Seed of the fit.
        git_commit: Commit of the training code, where it ran from a checkout.
        tracking: Logger, run name and address of the experiment tracker.
        metrics: Validation metrics of the published weights.
        golden: Sentences with known scores, one score per label.
        packages: Versions of the libraries that made it.
    """

    model_config = ConfigDict(frozen=True)

    base_model: str
    labels: tuple[str, ...] = Field(min_length=2)
    max_length: int = Field(gt=0)
    parent: str | None = None
    dataset: dict[str, Any] = Field(default_factory=dict)
    training_config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    git_commit: str | None = None
    tracking: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    golden: tuple[GoldenSentence, ...] = ()
    packages: dict[str, str] = Field(default_factory=dict)

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels) or not all(labels):
            raise ValueError(f"labels must be distinct and not empty, got {list(labels)}")
        return labels


class Manifest(ManifestDraft):
    """A published version as its ``manifest.json`` describes it.

    Attributes:
        format: Number of the manifest's own format.
        version: The version's name, which is its folder's.
        created_at: When it was published, in UTC.
        files: sha256 of every file beside the manifest, by its relative name.
    """

    format: int = MANIFEST_FORMAT
    version: str
    created_at: AwareDatetime
    files: dict[str, str] = Field(min_length=1)

    @field_validator("created_at")
    @classmethod
    def _in_utc(cls, created_at: datetime) -> datetime:
        return created_at.astimezone(UTC)


class HistoryEntry(BaseModel):
    """What was decided about ``current``, as a line of history.jsonl.

    Attributes:
        at: When, by the clock of the host that decided.
        action: ``promote``; ``rollback``: what was current before came back; ``refuse``: the gate said no, and
            ``current`` stayed. Lines of before there were rollbacks have none and are promotes.
        from_version: What was current; None for nothing.
        to_version: What became current, or was refused.
        why: The reason.
        numbers: What the gate's verdict was based on.
        forced: Whether a verdict was overruled.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    at: AwareDatetime
    action: Literal["promote", "rollback", "refuse"] = "promote"
    from_version: str | None = Field(alias="from")
    to_version: str = Field(alias="to")
    why: str
    numbers: dict[str, Any] = Field(default_factory=dict)
    forced: bool = False
