"""Data of a fit: CoLA's layout as it is, batches without waste, made sentences that part by grammar alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from scorequeue.errors import InputError, UsageError
from tests.tiny import make_tiny_base
from training import sample, sources
from training.config import FitConfig
from training.data import LengthGroupedBatches, SentenceData, TokenRows
from training.metrics import make_metrics
from training.sample import PHENOMENA

ROWS = 'gj04\t1\t\tHe said "no" and left.\ngj04\t0\t*\t"Him left.\nbc01\t1\t\tIt\'s 5\u2028o\'clock.\n'


@pytest.fixture
def cola_folder(tmp_path: Path) -> Path:
    (tmp_path / sources.TRAIN_FILE).write_text(ROWS, "utf-8")
    (tmp_path / sources.DEV_FILE).write_text("gj04\t0\t*\tThem are here.\r\n", "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return AutoTokenizer.from_pretrained(make_tiny_base(tmp_path_factory.mktemp("base")))


def test_cola_layout_is_read_without_quoting(cola_folder: Path) -> None:
    dataset = sources.load(str(cola_folder), seed=0)

    assert dataset.train.texts == ('He said "no" and left.', '"Him left.', "It's 5\u2028o'clock.")
    assert dataset.train.labels == (1, 0, 1)
    assert dataset.dev.texts == ("Them are here.",)


def test_fingerprint_changes_with_one_label(cola_folder: Path) -> None:
    before = sources.load(str(cola_folder), seed=0).describe()
    (cola_folder / sources.TRAIN_FILE).write_text(ROWS.replace("\t0\t", "\t1\t"), "utf-8")

    after = sources.load(str(cola_folder), seed=0).describe()

    assert before["fingerprint"] != after["fingerprint"]


def test_fingerprint_does_not_depend_on_how_labels_are_numbered(cola_folder: Path) -> None:
    """A warm start numbers them as its version does; it is the same data, and its killed fit is gone on with."""
    dataset = sources.load(str(cola_folder), seed=0)

    def turn(split: sources.Split) -> sources.Split:
        return replace(split, labels=tuple(1 - label for label in split.labels))

    turned = replace(dataset, labels=dataset.labels[::-1], train=turn(dataset.train), dev=turn(dataset.dev))

    assert turned.describe()["fingerprint"] == dataset.describe()["fingerprint"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gj04\t2\t\tA sentence.\n", "label '2', expected 0 or 1"),
        ("gj04\t1\tA sentence.\n", "3 tab-separated columns, expected 4"),
        ("gj04\t1\t\t \n", "no sentence"),
        ("", "holds no sentence"),
        (b"gj04\t1\t\t\xff\xfe\n", "not UTF-8"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(cola_folder: Path, content: str | bytes, message: str) -> None:
    file = cola_folder / sources.DEV_FILE
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(InputError, match=message) as caught:
        sources.load(str(cola_folder), seed=0)

    assert str(file) in str(caught.value)


def test_a_missing_dev_file_is_named(cola_folder: Path) -> None:
    (cola_folder / sources.DEV_FILE).unlink()

    with pytest.raises(InputError, match=r"in_domain_dev\.tsv is missing"):
        sources.load(str(cola_folder), seed=0)


def test_unknown_dataset_names_what_there_is() -> None:
    with pytest.raises(UsageError, match="expected sample, cola, a file of sentences and labels"):
        sources.load("glue", seed=0)


@pytest.mark.parametrize("rows", [1, 31, 32, 1000])
def test_every_row_comes_once_an_epoch(rows: int) -> None:
    batches = LengthGroupedBatches([3 + row % 17 for row in range(rows)], batch_size=32, seed=0)

    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        epochs.append(list(batches))

    assert all(sorted(row for batch in epoch for row in batch) == list(range(rows)) for epoch in epochs)
    assert all(len(epoch) == len(batches) for epoch in epochs)
    assert epochs[0] == epochs[2]
    assert rows < 32 or epochs[0] != epochs[1]


def test_batches_hold_little_padding(tokenizer) -> None:
    """The tutorial that this project began with padded every sentence to 256 tokens."""
    train, _ = sample.make(seed=0, train_pairs=400, dev_pairs=20)
    split = sources.Split(*zip(*train, strict=True))
    table = TokenRows(split, tokenizer=tokenizer, max_length=128)

    batches = [table[rows] for rows in LengthGroupedBatches(table.lengths, batch_size=16, seed=0)]

    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert tokens / sum(batch["input_ids"].numel() for batch in batches) > 0.9
    assert sum(len(batch["labels"]) for batch in batches) == 800
    assert all(int(batch["attention_mask"].sum(1).max()) == batch["input_ids"].shape[1] for batch in batches)


def test_batches_of_few_widths_hold_the_same_rows(tokenizer) -> None:
    """A GPU records each shape; a width beyond the model's positions would end the fit."""
    split = sources.Split(("Go!", "word " * 3, "word " * 200), (1, 0, 1))
    exact, stepped = (TokenRows(split, tokenizer=tokenizer, max_length=21, width_step=step) for step in (1, 8))

    for row, width in enumerate([8, 16, 21]):
        batch, expected = stepped[[row]], exact[[row]]
        longest = expected["input_ids"].shape[1]

        assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, width)
        assert torch.equal(batch["input_ids"][:, :longest], expected["input_ids"])
        assert batch["attention_mask"].sum() == longest
        assert set(batch["input_ids"][0, longest:].tolist()) <= {tokenizer.pad_token_id}


def test_long_rows_are_cut_with_their_last_special_token(tokenizer) -> None:
    split = sources.Split(("word " * 200,), (1,))
    data = SentenceData(
        sources.LabelledSentences("x", sources.LABELS, split, split), tokenizer=tokenizer, max_length=12
    )

    batch = next(iter(data.train_dataloader()))

    assert batch["input_ids"].shape == (1, 12)
    assert batch["input_ids"][0, -1] == tokenizer.sep_token_id


def test_made_sentences_share_none_between_train_and_dev() -> None:
    train, dev = sample.make(seed=3, train_pairs=1000, dev_pairs=100)

    train_texts, dev_texts = ({text for text, _ in part} for part in (train, dev))

    assert train_texts.isdisjoint(dev_texts)
    assert (len(train_texts), len(dev_texts)) == (2000, 200)
    assert sum(label for _, label in train) == 1000


def test_made_sentences_depend_on_the_seed_alone() -> None:
    assert sample.make(seed=5, train_pairs=50, dev_pairs=5) == sample.make(seed=5, train_pairs=50, dev_pairs=5)
    assert sample.make(seed=5, train_pairs=50, dev_pairs=5) != sample.make(seed=6, train_pairs=50, dev_pairs=5)


def test_each_template_makes_pairs_without_leftovers() -> None:
    import random

    assert len(PHENOMENA) >= 12
    order = random.Random(0)
    for name, templates in PHENOMENA.items():
        pairs = [sample.make_pair(name, order=order) for _ in range(20 * len(templates))]
        texts = [text for pair in pairs for text in pair[1:]]
        assert not [text for text in texts if any(mark in text for mark in "{}<>|")]
        assert sum(pair.acceptable != pair.unacceptable for pair in pairs) > 0.8 * len(pairs)


def test_matthews_correlation_is_that_of_the_formula() -> None:
    metrics = make_metrics(2)
    # 6 true positives, 3 true negatives, 1 false positive, 2 false negatives
    predicted = torch.tensor([1] * 6 + [0] * 3 + [1] + [0] * 2)
    true = torch.tensor([1] * 6 + [0] * 3 + [0] + [1] * 2)

    metrics.update(predicted[:7], true[:7])
    metrics.update(predicted[7:], true[7:])
    figures = metrics.compute()

    assert float(figures["mcc"]) == pytest.approx((6 * 3 - 1 * 2) / math.sqrt(7 * 8 * 4 * 5), abs=1e-6)
    assert float(figures["accuracy"]) == pytest.approx(9 / 12)


def test_a_model_that_always_says_yes_has_no_correlation() -> None:
    metrics = make_metrics(2)

    metrics.update(torch.ones(10, dtype=torch.long), torch.tensor([1] * 7 + [0] * 3))

    assert float(metrics.compute()["mcc"]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("lr", -1.0), ("batch_size", 0), ("momentum", 0.9)])
def test_settings_out_of_range_or_unknown_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        FitConfig.load(**{name: value})
