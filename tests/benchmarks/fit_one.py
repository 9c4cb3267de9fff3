"""One fit in a process of its own, ours or that of transformers' Trainer, and its figures as a line of JSON.

    python -m tests.benchmarks.fit_one ours|trainer --dataset FOLDER --base-model NAME [--epochs N] [--seed N] [--lr X]

Both learn from the same rows, and of both the epoch with the best validation correlation counts. Rows per second are
those of training, without validation and saving.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from training import base_models, sources
from training.config import FitConfig
from training.confusion import correlate, count_confusion
from training.quiet import quiet_libraries

BATCH_ROWS = 32


def main() -> None:
    """Fit once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "trainer"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--base-model", default="minilm-l6")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--bf16", action="store_true", help="of the Trainer; ours chooses by itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        fit = fit_ours if options.who == "ours" else fit_trainer
        figures = fit(Path(scratch), options)
    json.dump(figures, sys.stdout)
    print()


def fit_ours(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """``training fit`` with its defaults."""
    from training.fit import fit

    config = FitConfig.load(
        dataset=options.dataset, base_model=options.base_model, epochs=options.epochs, seed=options.seed,
        lr=options.lr, head_lr=options.lr, logger="csv", registry=scratch / "registry", runs=scratch / "runs",
    )  # fmt: skip
    result = fit(config)
    return {"mcc": result.mcc, "rows_per_s": result.rows_per_second}


def fit_trainer(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The Trainer as its own examples for this task use it: rows in random order, padded to the longest of a batch."""
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments, set_seed

    set_seed(options.seed)
    data = sources.load(options.dataset, seed=options.seed)
    base = base_models.load(options.base_model, labels=data.labels)

    def tokenise(split: sources.Split) -> list[dict[str, Any]]:
        rows = base.tokenizer(list(split.texts), truncation=True, max_length=base.max_length, padding=False)
        return [
            {**{name: values[at] for name, values in rows.items()}, "labels": label}
            for at, label in enumerate(split.labels)
        ]

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes the seconds of each epoch: they are evaluated and saved after they have ended."""

        def __init__(self) -> None:
            self.epochs_s: list[float] = []

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epochs_s.append(time.perf_counter() - self.since)

    def figures(prediction: Any) -> dict[str, float]:
        predicted = np.asarray(prediction.predictions).argmax(-1)
        return {"mcc": correlate(count_confusion(predicted, prediction.label_ids, label_count=len(data.labels)))}

    clock = Clock()
    trainer = Trainer(
        model=base.model,
        args=TrainingArguments(
            output_dir=str(scratch), learning_rate=options.lr or 1e-4, num_train_epochs=options.epochs,
            per_device_train_batch_size=BATCH_ROWS, per_device_eval_batch_size=4 * BATCH_ROWS, seed=options.seed,
            eval_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True,
            bf16=options.bf16,
        ),
        train_dataset=tokenise(data.train),
        eval_dataset=tokenise(data.dev),
        data_collator=DataCollatorWithPadding(base.tokenizer),
        compute_metrics=figures,
        callbacks=[clock],
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):  # its log lines
        trainer.train()
    found = [entry["eval_mcc"] for entry in trainer.state.log_history if "eval_mcc" in entry]
    rows = len(data.train)
    return {
        "mcc": max(found),
        "mcc_last": found[-1],
        "rows_per_s": rows * len(clock.epochs_s) / sum(clock.epochs_s),
        "epoch_rows_per_s": [rows / seconds for seconds in clock.epochs_s],
    }


if __name__ == "__main__":
    main()
