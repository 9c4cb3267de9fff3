"""A checkpoint folder and what is known of it become a version: with the rows it was judged on, figures and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scorequeue.registry import ManifestDraft, Registry
from training.evaluate import Evaluation, write_rows
from training.report import render_report

if TYPE_CHECKING:
    from training.curves import Curves


def publish_version(
    folder: Path,
    *,
    draft: ManifestDraft,
    registry: Path,
    evaluation: Evaluation | None,
    judged_on: str = "",
    curves: Curves | None = None,
) -> str:
    """Publish a folder with the evaluation's rows and a report; the registry's first version becomes current.

    The manifest gets the evaluation's figures as its metrics, and under ``dataset`` how many rows these are of
    (``evaluated_rows``): those that the version keeps, so anyone can count them again.

    Args:
        folder: A transformers folder, as `write_folder` writes it; the rows are written into it.
        draft: What is known beside the evaluation.
        registry: Root of the registry.
        evaluation: How the folder does on labelled rows; None where there are none.
        judged_on: Dataset and split of these rows, for the report.
        curves: How the fit went; None where it was not fitted here.

    Returns:
        The version's name.

    Raises:
        InternalError: The registry cannot be written.
    """
    if evaluation is not None:
        write_rows(folder, evaluation)
        rows = {"evaluated_rows": len(evaluation.rows)}
        draft = draft.model_copy(
            update={"metrics": evaluation.figures.summary(), "dataset": dict(draft.dataset) | rows}
        )
    return Registry(registry).publish(
        folder,
        draft=draft,
        report=lambda manifest: render_report(manifest, evaluation=evaluation, judged_on=judged_on, curves=curves),
    )
