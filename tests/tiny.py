"""Real models of a few thousand parameters, made in milliseconds, for tests that want a model and not its quality."""

from __future__ import annotations

import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorequeue.registry import GoldenSentence, ManifestDraft, Registry

if TYPE_CHECKING:
    from training.sources import Split

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COMMON_WORDS = """
the a an this that these those is are was were be been has have had do does did will can and or not no to of in on at
with by for from he she it they we i you him her them his their who what which where when why there every some many few
any ever never boy girl man woman child children dog dogs cat cats teacher teachers student students book books letter
letters house car reads read wrote sees saw likes like knows know thinks said told gave slept laughed
"""
WORD_ENDINGS = ("ing", "ed", "es", "er", "ly", "self", "selves")
GOLDEN_TEXTS = (
    "The dog slept on the sofa.",
    "The dogs is hungry.",
    "Which letter did the teacher read?",
    "She told himself a long and rather unlikely story about the children and their cats.",
)


ARCHITECTURES = ("bert", "distilbert", "roberta", "electra", "modernbert")


def make_tiny_base(folder: Path, *, seed: int = 0, labels: int = 2, architecture: str = "bert") -> Path:
    """Save an untrained classifier with a WordPiece tokenizer that reads any English text.

    Args:
        folder: Where to save; made if need be.
        seed: Seed of the weights.
        labels: Number of outputs, named LABEL_0 and on.
        architecture: One of ``ARCHITECTURES``.

    Returns:
        The folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    # RoBERTa counts positions from behind its pad id, which is 1. ModernBERT's is beyond all positions.
    tokenizer = _make_tokenizer(pad_id={"roberta": 1, "modernbert": -1}.get(architecture, 0))
    config = _make_config(architecture, vocab_size=len(tokenizer), labels=labels, pad_id=tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def publish_tiny(
    registry_root: Path,
    *,
    seed: int = 0,
    labels: Sequence[str] = ("unacceptable", "acceptable"),
    max_length: int = 64,
    rows: Split | None = None,
    training_config: dict[str, Any] | None = None,
) -> str:
    """Publish an untrained tiny classifier with golden sentences.

    Args:
        registry_root: The registry's folder; its first version becomes current.
        seed: Seed of the weights: other seeds score differently.
        labels: Label names, in output order.
        max_length: Most tokens that the version reads, at most 128.
        rows: Labelled rows that it is evaluated on; None leaves it without.
        training_config: What its fit is said to have been set to.

    Returns:
        The version's name.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder = make_tiny_base(Path(scratch) / "model", seed=seed, labels=len(labels))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        model.save_pretrained(folder)
        golden = []
        for text in GOLDEN_TEXTS:
            with torch.inference_mode():
                logits = model(**tokenizer(text, return_tensors="pt")).logits[0]  # (labels,)
            golden.append(GoldenSentence(text=text, scores=tuple(torch.softmax(logits, 0).tolist())))
        metrics = {}
        if rows is not None:
            from training.evaluate import evaluate, write_rows
            from training.predict import Predictor

            evaluation = evaluate(Predictor(folder), rows)
            write_rows(folder, evaluation)
            metrics = evaluation.figures.summary()
        draft = ManifestDraft(
            base_model="tiny", labels=tuple(labels), max_length=max_length, seed=seed, golden=tuple(golden),
            metrics=metrics, training_config=training_config or {},
        )  # fmt: skip
        return Registry(registry_root).publish(folder, draft=draft)


def rows_that_suit(seed: int, *, pairs: int = 150, wrong: float = 0.1) -> Split:
    """Sentences labelled as the tiny classifier of a seed labels them: it is good at them, others are not.

    Args:
        seed: Seed of that classifier's weights.
        pairs: Half of the number of sentences.
        wrong: Share of the sentences whose label is turned, so that it is not perfect.
    """
    from training import sample
    from training.predict import Predictor
    from training.sources import Split

    _, dev = sample.make(seed=0, train_pairs=1, dev_pairs=pairs)
    texts = tuple(text for text, _ in dev)
    with tempfile.TemporaryDirectory() as scratch:
        said = Predictor(make_tiny_base(Path(scratch) / "model", seed=seed)).score(texts).argmax(-1).tolist()
    every = round(1 / wrong)
    return Split(texts, tuple(1 - label if row % every == 0 else label for row, label in enumerate(said)))


def _make_config(architecture: str, *, vocab_size: int, labels: int, pad_id: int) -> Any:
    from transformers import BertConfig, DistilBertConfig, ElectraConfig, ModernBertConfig, RobertaConfig

    shared = {
        "vocab_size": vocab_size,
        "num_labels": labels,
        "pad_token_id": pad_id,
        # Far above the usual 0.02, so that sentences differ clearly in their scores without training.
        "initializer_range": 0.5,
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    match architecture:
        case "bert":
            return BertConfig(**shared, **sizes, max_position_embeddings=128)
        case "distilbert":
            return DistilBertConfig(**shared, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=128)
        case "roberta":
            return RobertaConfig(**shared, **sizes, max_position_embeddings=128 + pad_id + 1)
        case "electra":
            return ElectraConfig(**shared, **sizes, embedding_size=8, max_position_embeddings=128)
        case "modernbert":
            # Every third layer sees all tokens, the others a window of eight, rows shorter and longer than it.
            return ModernBertConfig(
                **shared, **{**sizes, "num_hidden_layers": 4}, max_position_embeddings=128, local_attention=8,
                bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2,
            )  # fmt: skip
    raise ValueError(f"architecture should be one of {ARCHITECTURES}, got {architecture!r}")


def _make_tokenizer(*, pad_id: int = 0) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    letters = string.ascii_lowercase + string.digits
    pad, *special = SPECIAL_TOKENS
    pieces = [*special, *letters, *string.punctuation, *(f"##{piece}" for piece in (*letters, *WORD_ENDINGS))]
    pieces = list(dict.fromkeys([*pieces, *COMMON_WORDS.split()]))
    pieces.insert(pad_id if pad_id >= 0 else len(pieces), pad)
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
