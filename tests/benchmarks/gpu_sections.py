"""Sections of ``make bench-gpu``: each measures one thing of a model, or of training."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tests.benchmarks import gpu_models
from tests.benchmarks.fit_one import BATCH_ROWS, fit_trainer
from tests.benchmarks.gpu_models import BareLoop, Model, make_pipeline, pipeline_rate, rate_of
from tests.benchmarks.gpu_queue import ServedModel
from tests.benchmarks.gpu_report import BASE, TRAINER, Findings, describe_machine, percentiles
from tests.benchmarks.gpu_rows import (
    MIXES,
    TokeniserPool,
    concatenate,
    find_dataset,
    load_tokenizer,
    make_rows,
    read_sentences,
    tokenise,
)
from training.base_models import locate
from training.cola import DEV_FILE, TRAIN_FILE
from training.quiet import quiet_libraries

SECTIONS = ("bare", "queue", "lone", "scores", "tokenizer", "pipeline", "fit", "trainer")
SERVED = frozenset(SECTIONS[:4])
"""Sections that need a worker; the bare loop takes its token budget."""

BLOCK_TOKENS = 25_000
"""Tokens of a block that one process tokenises at a time."""

FIT_TIMEOUT_S = 120
UNLIMITED = 1_000_000


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        pool_rows: Distinct rows of a mix.
        window_batches: Full batches that the bare loop sorts together.
        token_budget: The worker's and the bare loop's; None leaves it to the worker.
        least_s: Seconds of each figure of the bare loop.
        pipeline_s: Seconds of each figure of the pipeline and the tokenizer.
        bulk_s: Seconds of a bulk job, if it is as fast as the bare loop.
        lone: Lone sentences on an idle worker.
        compared: Sentences whose scores are compared.
        fit_rows: Training rows.
        fit_epochs: Passes over them.
    """

    pool_rows: int = 8_192
    window_batches: int = 8
    token_budget: int | None = None
    least_s: float = 1.0
    pipeline_s: float = 0.4
    bulk_s: float = 6.0
    lone: int = 200
    compared: int = 2_048
    fit_rows: int = 3_200
    fit_epochs: int = 3


QUICK = Sizes(
    pool_rows=128, window_batches=2, token_budget=4_096, least_s=0.05, pipeline_s=0.05, bulk_s=0.3, lone=20,
    compared=64, fit_rows=96, fit_epochs=2,
)  # fmt: skip


class Bench:
    """One run: what all sections share.

    Args:
        options: The command's.
        scratch: An empty folder.
        findings: Gets the figures.
    """

    def __init__(self, options: argparse.Namespace, *, scratch: Path, findings: Findings) -> None:
        self._options = options
        self._device: str = options.device
        self._is_cuda = self._device.startswith("cuda")
        self._sizes = QUICK if options.quick else Sizes()
        self._scratch = scratch
        self._findings = findings
        self._wanted = set(options.only)
        self._cpus = len(os.sched_getaffinity(0))
        self._dataset, source = find_dataset(options.dataset, scratch=scratch)
        self._sentences = read_sentences(self._dataset)
        self._models: list[Model] = []
        self._rows: dict[tuple[str, str], list[str]] = {}
        self._bare_rates: dict[str, float] = {}
        findings.found["machine"] = describe_machine(self._device) | {"sentences": source}

    def run(self) -> None:
        """Run the sections that were asked for, the most telling first."""
        if not self._findings.run("models", self._make_models):
            return
        for model in self._models:
            if SERVED & self._wanted:
                self._findings.run(f"worker, {model.name}", partial(self._run_served, model))
        for model in self._models:
            self._run_section("tokenizer", model, self._measure_tokenizer)
            self._run_section("pipeline", model, self._measure_pipeline)
        if {"fit", "trainer"} & self._wanted:
            self._make_training_data()
        for name, section in (("fit", self._measure_fit), ("trainer", self._measure_trainer)):
            if name in self._wanted:
                self._findings.run(name, section)

    def _run_section(self, name: str, model: Model, section: Callable[[Model], object], mix: str = "") -> None:
        if name in self._wanted:
            self._findings.run(", ".join(filter(None, (name, model.name, mix))), lambda: section(model))

    def _make_models(self) -> None:
        """Publish the models that are measured."""
        folders = [self._scratch / name for name in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        if self._options.quick:
            self._models = [gpu_models.make_tiny(self._sentences, scratch=folders[0])]
        else:
            given = self._options.minilm or Path(locate("minilm-l6"))
            self._models = [
                gpu_models.make_minilm(given, self._sentences, scratch=folders[0]),
                gpu_models.make_bert_base(given, self._sentences, scratch=folders[1]),
            ]
        for model in self._models:
            self._findings.put(model.name, "weights", model.weights)

    def _make_rows(self, model: Model, mix: str) -> list[str]:
        key = (model.name, mix)
        if key not in self._rows:
            tokenizer = load_tokenizer(model.folder, max_length=UNLIMITED)
            self._rows[key] = make_rows(mix, self._sentences, count=self._sizes.pool_rows, tokenizer=tokenizer)
        return self._rows[key]

    def _run_served(self, model: Model) -> None:
        """Start a worker, and run what is measured with it or beside it."""
        folder = model.registry.parent / "served"
        folder.mkdir()
        served = ServedModel(
            model, device=self._device, folder=folder, producers=max(1, min(4, self._cpus // 4)),
            token_budget=self._options.token_budget or self._sizes.token_budget,
        )  # fmt: skip
        self._bare_rates.clear()
        try:
            with served:
                budget = served.token_budget()
                self._findings.put(model.name, "s from start to ready", round(served.start_s, 1))
                self._findings.put(model.name, "token budget of the worker", budget)
                for mix in MIXES:
                    self._run_section("bare", model, partial(self._measure_bare, mix=mix, budget=budget), mix)
                    self._run_section("queue", model, partial(self._measure_queue, mix=mix, served=served), mix)
                self._run_section("lone", model, partial(self._measure_lone, served=served))
                self._run_section("scores", model, partial(self._compare_scores, served=served))
        finally:
            lines = (folder / "worker.log").read_text("utf-8").splitlines()
            if problems := [line for line in lines if " info " not in line]:
                print(f"log of the worker, {model.name}:", *problems[-20:], sep="\n", file=sys.stderr)

    def _measure_bare(self, model: Model, *, mix: str, budget: int) -> None:
        """Measure with token ids ready, with and without cuDNN's attention; then with tokenising beside it."""
        dtype = torch.bfloat16 if self._is_cuda else torch.float32
        loop = BareLoop(model, device=self._device, dtype=dtype, token_budget=budget)
        texts = self._make_rows(model, mix)
        tokens = tokenise(load_tokenizer(model.folder, max_length=model.max_length), texts)
        copies = max(1, self._sizes.window_batches * budget // len(tokens.ids))
        window, rows = concatenate([tokens] * copies), copies * len(texts)
        found = {}
        # With cuDNN each new shape takes so long that one mix has to do.
        for is_cudnn_on in (True, False) if mix == next(iter(MIXES)) else (False,):
            torch.backends.cuda.enable_cudnn_sdp(is_cudnn_on)
            how = "" if is_cudnn_on else ", cuDNN attention off"
            # The first pass meets shapes that the device has never seen.
            first = rate_of(lambda: loop.score(window), rows=rows, least_s=0)
            found[is_cudnn_on] = rate_of(lambda: loop.score(window), rows=rows, least_s=self._sizes.least_s)
            self._findings.put(model.name, f"bare loop, ids ready{how}, first pass", first, mix=mix)
            self._findings.put(model.name, f"bare loop, ids ready{how}", found[is_cudnn_on], mix=mix)
        torch.backends.cuda.enable_cudnn_sdp(max(found, key=lambda is_cudnn_on: found[is_cudnn_on]))
        try:
            block = max(1, len(texts) * BLOCK_TOKENS // len(tokens.ids))
            blocks = [texts[at : at + block] for at in range(0, len(texts), block)]
            rate = self._rate_beside_tokenising(model, loop, blocks, window_blocks=copies * len(blocks), rows=rows)
        finally:
            torch.backends.cuda.enable_cudnn_sdp(True)
        self._bare_rates[mix] = rate
        self._findings.put(model.name, BASE, rate, mix=mix)

    def _rate_beside_tokenising(
        self, model: Model, loop: BareLoop, blocks: Sequence[Sequence[str]], *, window_blocks: int, rows: int
    ) -> float:
        processes = max(1, min(12, self._cpus - 3))
        pool = TokeniserPool(model.folder, max_length=model.max_length, processes=processes)
        ready = pool.stream(blocks, ahead=max(window_blocks, 2 * processes))

        def begin_window() -> None:
            loop.begin(concatenate([next(ready) for _ in range(window_blocks)]))

        try:
            for _ in range(3):  # then as many blocks are ahead as will be at the end
                begin_window()
            loop.finish()
            done = 0
            began = time.perf_counter()
            while done < 2 * rows or time.perf_counter() - began < self._sizes.least_s:
                begin_window()
                done += rows
            loop.finish()
            return done / (time.perf_counter() - began)
        finally:
            pool.close()

    def _measure_queue(self, model: Model, *, mix: str, served: ServedModel) -> None:
        texts = self._make_rows(model, mix)
        bare = self._bare_rates.get(mix, 0.0)
        rate = served.warm(texts, rows=max(len(texts), round(bare)))
        # The first rows also pay for new shapes and their upload, so the job may be twice as fast.
        likely = max(rate, min(2 * rate, bare))
        bulk = served.run_bulk(texts, rows=round(likely * self._sizes.bulk_s))
        self._findings.put(model.name, "through the queue", bulk.rows_per_s, mix=mix)
        self._findings.put(model.name, f"bulk job, {mix}", bulk.describe())

    def _measure_lone(self, model: Model, *, served: ServedModel) -> None:
        texts = self._make_rows(model, "short")
        rate = served.warm(texts, rows=len(texts))
        served.lone_ms(texts[:20])
        idle = served.lone_ms(texts[: self._sizes.lone])
        rows = round(max(rate, self._bare_rates.get("short", 0.0)) * self._sizes.bulk_s / 2)
        beside = served.lone_ms_beside_bulk(texts, bulk_rows=rows)
        for name, taken in (("idle", idle), ("beside bulk", beside)):
            self._findings.put(model.name, f"lone sentence, {name}", percentiles(taken))

    def _compare_scores(self, model: Model, *, served: ServedModel) -> None:
        texts = self._sentences[: self._sizes.compared]
        through = served.scores(texts)
        exact = BareLoop(model, device="cpu", dtype=torch.float32, token_budget=4_096)
        tokens = tokenise(load_tokenizer(model.folder, max_length=model.max_length), texts)
        reference = exact.score(tokens)
        figures = {
            "sentences": len(texts),
            "largest difference": round(float(np.abs(through - reference).max()), 6),
            "other labels": int((through.argmax(-1) != reference.argmax(-1)).sum()),
        }
        self._findings.put(model.name, "scores against float32 on the CPU", figures)

    def _measure_tokenizer(self, model: Model) -> None:
        tokenizer = load_tokenizer(model.folder, max_length=model.max_length)
        for mix in MIXES:
            texts = self._make_rows(model, mix)
            rate = rate_of(partial(tokenise, tokenizer, texts), rows=len(texts), least_s=self._sizes.pipeline_s)
            self._findings.put(model.name, "tokenizer alone, one process", rate, mix=mix)

    def _measure_pipeline(self, model: Model) -> None:
        for dtype in ("float32", "bfloat16"):
            pipeline = make_pipeline(model, device=self._device, dtype=dtype)
            for batch_rows in (32, 256):
                for mix in MIXES:
                    rate = pipeline_rate(
                        pipeline, self._make_rows(model, mix), max_length=model.max_length, batch_rows=batch_rows,
                        least_s=self._sizes.pipeline_s,
                    )  # fmt: skip
                    name = f"transformers pipeline, {dtype}, batch {batch_rows}"
                    self._findings.put(model.name, name, rate, mix=mix)

    def _make_training_data(self) -> None:
        self._part = self._scratch / "part"
        self._part.mkdir()
        for file, rows in ((TRAIN_FILE, self._sizes.fit_rows), (DEV_FILE, 256)):
            lines = (self._dataset / file).read_text("utf-8").splitlines(keepends=True)[:rows]
            (self._part / file).write_text("".join(lines), "utf-8")

    def _measure_fit(self) -> None:
        """Fit in a process of its own; its log says how fast it was from the start to each epoch's end."""
        epochs, rows = self._sizes.fit_epochs, self._sizes.fit_rows
        command = [sys.executable, "-m", "training.cli", "fit", "--log-format", "json", "--logger", "csv"]
        command += ["--dataset", str(self._part), "--base-model", str(self._models[0].folder)]
        command += ["--batch-size", str(BATCH_ROWS), "--epochs", str(epochs)]
        command += ["--precision", "bf16-mixed" if self._is_cuda else "32-true"]
        command += ["--registry", str(self._scratch / "fitted"), "--runs", str(self._scratch / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FIT_TIMEOUT_S)
        lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        rates = [line["rows_per_second"] for line in lines if line.get("action") == "epoch"]
        if len(rates) > 1:
            later_s = len(rates) * rows / rates[-1] - rows / rates[0]
            self._put_training("training fit", rates[0], (len(rates) - 1) * rows / later_s)
        assert len(rates) == epochs, f"expected {epochs} epochs, got {len(rates)}: {done.stderr[-2_000:]}"

    def _measure_trainer(self) -> None:
        options = argparse.Namespace(
            dataset=str(self._part), base_model=str(self._models[0].folder), epochs=self._sizes.fit_epochs, seed=0,
            lr=None, bf16=self._is_cuda,
        )  # fmt: skip
        with quiet_libraries():
            rates = fit_trainer(self._scratch / "trainer", options)["epoch_rows_per_s"]
        self._put_training(TRAINER, rates[0], len(rates[1:]) / sum(1 / rate for rate in rates[1:]))

    def _put_training(self, who: str, first: float, later: float) -> None:
        kept = self._findings.found.setdefault("training_rows_per_s", {})
        kept[who] = {"first epoch": round(first, 1), "later epochs": round(later, 1)}
