"""Publish a classifier that was trained elsewhere: a transformers folder or a hub id in, a version of the registry out.

What workers could not serve, or would score otherwise than its authors do, is refused with the reason::

    config.json -> weights and tokenizer -> saved as a fit saves them -> scored as workers score -> published
"""

from __future__ import annotations

import logging
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import ValidationError

from scorequeue.errors import UsageError, VerificationError
from scorequeue.logs import fields
from scorequeue.registry import GoldenSentence, ManifestDraft, Registry
from training import sources
from training.admission import check_config, check_files, read_config, read_labels, refusal
from training.base_models import find_tokenizer_fault, read_max_length
from training.evaluate import Evaluation, evaluate, load_rows
from training.export import read_git_commit, read_packages, write_folder
from training.figures import Figures
from training.golden import choose_golden, score_golden
from training.hub import explain_download, first_line
from training.predict import Predictor, fastest_device
from training.publishing import publish_version
from training.quiet import quiet_libraries
from training.sources import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MADE_SENTENCES = 200
"""Made sentences that golden ones are chosen from: a second of scoring for a small model, some for a large one."""

LONG_TOKENS = (50, 100, 200)
"""Tokens of the long golden sentences: shorter and longer than a window of attention (128 in ModernBERT)."""

LONGEST_CHECKED = 1024
"""Tokens of the longest row that is tried, because a limit may be wrong; more would take minutes in large models."""

SCORE_TOLERANCE = 1e-3
"""Largest difference between a row alone and the row in a batch; a worker allows its golden sentences as much."""


class Imported(NamedTuple):
    """A version that was imported.

    Attributes:
        version: Its name.
        labels: Label names in output order.
        max_length: Most tokens of a text, special tokens included.
        current: The version that new jobs get, which may be another one; None where that is damaged or gone.
        figures: How it does on the rows it was judged by; None where there were none.
    """

    version: str
    labels: tuple[str, ...]
    max_length: int
    current: str | None
    figures: Figures | None


def import_checkpoint(
    source: str, *, registry: Path, max_length: int | None = None, part: Part | None = None
) -> Imported:
    """Publish a sequence classifier as float32 safetensors with golden sentences and a report.

    Args:
        source: A transformers folder or a hub id.
        registry: Root of the registry; its first version becomes current.
        max_length: The caller's limit in tokens; None takes the model's.
        part: What it is judged by, and where its golden sentences come from; None takes made sentences for these,
            without judging by them.

    Raises:
        UsageError: There is no such folder, hub id or dataset, ``max_length`` is above the model's limit, or the
            dataset's labels are not the checkpoint's.
        InputError: Workers cannot serve this checkpoint; the message says why.
        InternalError: The registry cannot be written.
    """
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="scorequeue-") as scratch:
        check_config(source, read_config(source))
        check_files(source)
        model, tokenizer = load(source)
        labels = read_labels(source, model.config.id2label)
        limit = read_max_length(model.config, tokenizer)
        if max_length is not None and max_length > limit:
            raise UsageError(f"--max-length {max_length} is above the {limit} tokens that {source} reads")
        max_length = max_length or limit
        rows = None if part is None else load_rows(part, labels=labels)
        write_folder(Path(scratch), model=model, tokenizer=tokenizer, labels=labels, max_length=max_length)
        try:
            predictor = Predictor(scratch, device=fastest_device())
            evaluation = None if rows is None else evaluate(predictor, rows)
            texts = choose_texts(predictor, evaluation, tokenizer=tokenizer)
            golden = score_golden(Path(scratch), texts)
            difference = compare_as_batch(model, tokenizer, golden=golden, max_length=max_length)
        except (ValidationError, VerificationError) as error:
            raise refusal(source, "its scores are not finite; are its weights whole?") from error
        except Exception as error:  # any architecture's code may run here, and fail in its own way
            raise refusal(source, f"it loads but does not score ({first_line(error)})") from error
        if not difference <= SCORE_TOLERANCE:
            raise refusal(
                source,
                f"workers score padded batches from token ids and mask alone, and its scores then differ by "
                f"{difference:.2g} from those of each text by itself",
            )
        draft = ManifestDraft(
            base_model=source,
            labels=labels,
            max_length=max_length,
            dataset={} if part is None else {"name": part.dataset, "split": part.split},
            git_commit=read_git_commit(),
            golden=golden,
            packages=read_packages(),
        )
        version = publish_version(
            Path(scratch),
            draft=draft,
            registry=registry,
            evaluation=evaluation,
            judged_on="" if part is None else f"{part.split} of {part.dataset}",
        )
    log.info("version published", extra=fields("publish", version=version, registry=str(registry)))
    figures = None if evaluation is None else evaluation.figures
    return Imported(version, labels, max_length, Registry(registry).pointed(), figures)


def load(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load classifier and tokenizer in float32, ready to be saved for workers.

    Raises:
        InputError: They do not load, lack weights or vocabulary, need code of their own or have no padding token.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    failure = "no fast tokenizer (tokenizer.json) can be loaded"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        failure = "it does not load in transformers"
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are reported, which reads better than the error
            output_loading_info=True,
        )
    except Exception as error:  # foreign files fail in many ways: OSError, KeyError, SafetensorError, ...
        if "trust_remote_code" in str(error):
            raise refusal(source, "it needs Python code that comes with it, which is not run") from error
        if not Path(source).is_dir() and (reason := explain_download(error)):
            raise UsageError(f"{source} cannot be had from the hub: {reason}") from error
        raise refusal(source, f"{failure} ({first_line(error)})") from error
    # Of another shape: a tuple of name, shape and shape.
    if missing := sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]):
        raise refusal(source, f"it is no whole classifier: weights are missing or of another shape ({missing[0]}, ...)")
    if fault := find_tokenizer_fault(tokenizer, model):
        raise refusal(source, fault)
    config = model.config
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        raise refusal(source, "it has no padding token, so texts cannot be scored together; name one in config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    # As workers pad and cut, whatever the checkpoint's own habit.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if hasattr(config, "auto_map"):
        del config.auto_map  # transformers has the code; what was beside the weights is not published
    return model, tokenizer


def choose_texts(
    predictor: Predictor, evaluation: Evaluation | None, *, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Golden sentences of the rows it was judged on, else made ones; and long ones joined from these."""
    if evaluation is not None:
        texts, scores = evaluation.rows.texts, evaluation.scores
    else:
        texts = sources.load("sample", seed=0).dev.texts[:MADE_SENTENCES]
        scores = predictor.score(texts).numpy()
    counts = [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False).input_ids]
    ends = list(accumulate(counts))
    return choose_golden(texts, scores) + [" ".join(texts[: bisect_left(ends, size) + 1]) for size in LONG_TOKENS]


def compare_as_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    golden: Sequence[GoldenSentence],
    max_length: int,
) -> float:
    """Score as workers do: many rows padded on the right, from tokenizer.json's ids and a mask, nothing else.

    Returns:
        Largest difference from the golden scores; NaN where a score is none. A row as long as the limit is tried too.
    """
    reader = tokenizer.backend_tokenizer
    reader.enable_truncation(max_length)
    rows = [torch.tensor(encoding.ids) for encoding in reader.encode_batch([one.text for one in golden])]
    lengths = torch.tensor([len(row) for row in rows])
    pad_id = int(model.config.pad_token_id)
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)  # (rows, tokens)
    mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()  # (rows, tokens)
    reader.enable_truncation(min(max_length, LONGEST_CHECKED))
    longest = reader.encode(" ".join([golden[-1].text] * (LONGEST_CHECKED // LONG_TOKENS[-1] + 1)))
    with torch.inference_mode():
        model.eval()(input_ids=torch.tensor([longest.ids]))
        scores = torch.softmax(model(input_ids=input_ids, attention_mask=mask).logits, -1)  # (rows, labels)
    return float((scores - torch.tensor([one.scores for one in golden])).abs().max())
