"""Models for ``make bench-gpu``, and how fast they are without the queue: pipeline and bare loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from scorequeue.registry import ManifestDraft, Registry
from tests.benchmarks.gpu_rows import Tokens, load_tokenizer
from tests.tiny import make_tiny_base
from training.export import write_folder
from training.golden import score_golden
from training.quiet import quiet_libraries
from worker.batching import plan_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = npt.NDArray[np.float32]

LABELS = ("unacceptable", "acceptable")
GOLDEN_ROWS = 8
HEAD_ROWS = 256
LOGIT_SPREAD = 2.0
"""Standard deviation of the difference of the two logits that a head without training is scaled to."""

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1_536}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3_072}

MAX_ROWS = 16_384
"""Most rows of a batch of the bare loop: the token budget ends short rows before that."""

PIPELINE_ROWS = 256
"""Rows that a pipeline gets at a time, at least."""

IN_FLIGHT = 4
"""Batches that the bare loop keeps on the device."""


class Model(NamedTuple):
    """A classifier that is published in a registry of its own.

    Attributes:
        name: What the output calls it.
        weights: Where its weights come from, in words.
        registry: The registry.
        folder: Its version's folder.
        max_length: Most tokens of a row.
    """

    name: str
    weights: str
    registry: Path
    folder: Path
    max_length: int


def make_minilm(given: Path, sentences: Sequence[str], *, scratch: Path) -> Model:
    """Publish MiniLM-L6 with a head that nothing has trained.

    With real weights the head is scaled so that sentences differ in their scores as they do with a trained one: a label
    that differs from that in float32 then means something.

    Args:
        given: A transformers folder of all-MiniLM-L6-v2; without model.safetensors all weights are random.
        sentences: What its scores are spread over.
        scratch: An empty folder to work in.
    """
    from transformers import AutoModelForSequenceClassification

    if not (given / "model.safetensors").is_file():
        return _make_random("MiniLM-L6", MINILM, given, sentences, scratch=scratch)
    torch.manual_seed(0)
    with quiet_libraries():
        model = AutoModelForSequenceClassification.from_pretrained(
            given, num_labels=len(LABELS), dtype=torch.float32
        ).eval()
    _spread_scores(model, given, sentences[:HEAD_ROWS])
    return _publish("MiniLM-L6", "real, head untrained", model, given, sentences, scratch=scratch)


def make_bert_base(tokenizer: Path, sentences: Sequence[str], *, scratch: Path) -> Model:
    """Publish a classifier of BERT-base's shape with random weights and the tokenizer of a folder."""
    return _make_random("BERT-base shape", BERT_BASE, tokenizer, sentences, scratch=scratch)


def make_tiny(sentences: Sequence[str], *, scratch: Path) -> Model:
    """Publish the tests' tiny classifier."""
    from transformers import AutoModelForSequenceClassification

    with quiet_libraries():
        base = make_tiny_base(scratch / "base")
        model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32).eval()
    return _publish("tiny", "random", model, base, sentences, scratch=scratch)


def _make_random(
    name: str, sizes: dict[str, int], tokenizer: Path, sentences: Sequence[str], *, scratch: Path
) -> Model:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    vocabulary = load_tokenizer(tokenizer, max_length=512).get_vocab_size()
    model = BertForSequenceClassification(BertConfig(vocab_size=vocabulary, **sizes)).eval()
    return _publish(name, "random", model, tokenizer, sentences, scratch=scratch)


def _publish(
    name: str, weights: str, model: PreTrainedModel, tokenizer_folder: Path, sentences: Sequence[str], *, scratch: Path
) -> Model:
    from transformers import AutoTokenizer

    folder = scratch / "model"
    max_length = model.config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    write_folder(folder, model=model, tokenizer=tokenizer, labels=LABELS, max_length=max_length)
    golden = score_golden(folder, sentences[:GOLDEN_ROWS])
    draft = ManifestDraft(base_model=name, labels=LABELS, max_length=max_length, golden=golden)
    registry = Registry(scratch / "registry")
    version = registry.publish(folder, draft=draft)
    return Model(name, weights, registry.root, registry.path(version), max_length)


@torch.inference_mode()
def _spread_scores(model: PreTrainedModel, folder: Path, sentences: Sequence[str]) -> None:
    tokenizer = load_tokenizer(folder, max_length=512)
    logits = torch.cat(
        [model(input_ids=torch.tensor([tokenizer.encode(text).ids])).logits for text in sentences]
    )  # (rows, labels)
    difference = logits[:, 1] - logits[:, 0]
    scale = LOGIT_SPREAD / difference.std()
    head = model.classifier
    head.weight.mul_(scale)
    head.bias.mul_(scale)
    head.bias[1] -= scale * difference.mean()


def make_pipeline(model: Model, *, device: str, dtype: str) -> Any:
    """Load transformers' own pipeline."""
    import transformers

    with quiet_libraries():
        return transformers.pipeline("text-classification", model=str(model.folder), device=device, dtype=dtype)


def pipeline_rate(pipeline: Any, texts: Sequence[str], *, max_length: int, batch_rows: int, least_s: float) -> float:
    """Return rows/s of a pipeline, after one batch that does not count."""
    options = {"batch_size": batch_rows, "truncation": True, "max_length": max_length}
    part = list(texts[: max(batch_rows, PIPELINE_ROWS)])
    pipeline(part[:batch_rows], **options)
    return rate_of(lambda: pipeline(part, **options), rows=len(part), least_s=least_s)


def rate_of(action: Callable[[], object], *, rows: int, least_s: float) -> float:
    """Return rows/s of an action that is repeated until the seconds are over."""
    done = 0
    began = time.perf_counter()
    while not done or time.perf_counter() - began < least_s:
        action()
        done += rows
    return done / (time.perf_counter() - began)


class BareLoop:
    """The device without the queue: rows sorted, cut by a token budget, a few batches in flight.

    Args:
        model: What to run.
        device: Where.
        dtype: Number format of the weights.
        token_budget: Most padded tokens of a batch.
    """

    def __init__(self, model: Model, *, device: str, dtype: torch.dtype, token_budget: int) -> None:
        from transformers import AutoModelForSequenceClassification

        with quiet_libraries():
            loaded = AutoModelForSequenceClassification.from_pretrained(model.folder, dtype=dtype)
        self._model = loaded.to(device).eval()
        self._pad_id = int(loaded.config.pad_token_id)
        self._device = torch.device(device)
        self._is_cuda = self._device.type == "cuda"
        self._budget = token_budget
        self._running: deque[tuple[torch.Tensor, torch.cuda.Event | None, Any]] = deque()

    def score(self, tokens: Tokens) -> Scores:
        """Return the probability of each label of each row: (rows, labels)."""
        batches = [*self.begin(tokens), *self.finish()]
        scores = np.empty((len(tokens.lengths), len(LABELS)), np.float32)
        for rows, part in batches:
            scores[rows] = part
        return scores

    @torch.inference_mode()
    def begin(self, tokens: Tokens) -> list[tuple[Any, Scores]]:
        """Queue all batches of some rows; returns rows and scores of those that have ended meanwhile."""
        done = []
        starts = np.cumsum(tokens.lengths) - tokens.lengths
        for batch in plan_batches(tokens.lengths, token_budget=self._budget, max_rows=MAX_ROWS):
            lengths = tokens.lengths[batch.rows]
            columns = np.arange(batch.width)
            ids = torch.empty((len(lengths), batch.width), dtype=torch.int32, pin_memory=self._is_cuda)
            places = starts[batch.rows][:, None] + columns  # (rows, tokens)
            np.take(tokens.ids, places, out=ids.numpy(), mode="clip")
            mask = None
            if lengths[0] < batch.width:
                ids.numpy()[columns >= lengths[:, None]] = self._pad_id
                on_host = torch.from_numpy(lengths)
                on_host = on_host.pin_memory() if self._is_cuda else on_host
                there = on_host.to(self._device, non_blocking=True)
                # Four dimensions: a mask of two makes transformers wait for the device.
                mask = torch.arange(batch.width, device=self._device) < there[:, None]
                mask = mask[:, None, None, :].expand(-1, 1, batch.width, -1)
            input_ids = ids.to(self._device, non_blocking=True)
            logits = self._model(input_ids=input_ids, attention_mask=mask).logits
            scores = torch.softmax(logits.float(), dim=-1)  # (rows, labels)
            event = None
            if self._is_cuda:
                on_device, scores = scores, torch.empty(scores.shape, pin_memory=True)
                scores.copy_(on_device, non_blocking=True)
                event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                event.record()
            self._running.append((scores, event, batch.rows))
            if len(self._running) > IN_FLIGHT:
                done.append(self._take_first())
        return done

    def finish(self) -> list[tuple[Any, Scores]]:
        """Wait for the batches that still run; returns their rows and scores."""
        return [self._take_first() for _ in range(len(self._running))]

    def _take_first(self) -> tuple[Any, Scores]:
        scores, event, rows = self._running.popleft()
        if event is not None:
            event.synchronize()
        return rows, scores.numpy()
