"""Which checkpoints made elsewhere can be imported, by what config.json and the names of their files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scorequeue.errors import InputError, UsageError
from scorequeue.terminal import harmless
from training.hub import explain_hub, first_line

PAIR_TASKS = frozenset({"mnli", "mrpc", "qnli", "qqp", "rte", "stsb", "wnli"})
"""Tasks of GLUE whose models read two texts, as older transformers noted them in ``finetuning_task``."""


def read_config(source: str) -> dict[str, Any]:
    """config.json as it is written, of a folder or from the hub.

    Raises:
        UsageError: There is no such folder or hub id, or the hub cannot be reached.
        InputError: The folder holds no config.json, or it is not JSON.
    """
    from transformers import PreTrainedConfig

    is_folder = Path(source).is_dir()
    if is_folder and not (Path(source) / "config.json").is_file():
        raise InputError(f"{source} has no config.json; expected a transformers folder")
    if not is_folder and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise UsageError(f"no folder {source!r}; expected a transformers folder or a hub id like owner/name")
    try:
        if is_folder and not isinstance(json.loads((Path(source) / "config.json").read_bytes()), dict):
            raise ValueError("expected a JSON object")  # transformers takes it for one
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(source)[0]
    except (OSError, ValueError, RecursionError) as error:
        if is_folder:
            raise InputError(f"{Path(source) / 'config.json'} cannot be read: {first_line(error)}") from error
        raise UsageError(
            f"{source} is no folder here and cannot be had from the hub: {explain_hub(error)}; or give a local folder"
        ) from error
    return config


def check_config(source: str, config: dict[str, Any]) -> None:
    """Refuse what config.json shows to be no classifier of one text into one of several labels.

    Raises:
        InputError: With the reason.
    """
    try:
        _check_config(source, config)
    except (AttributeError, TypeError) as error:
        reason = f"its config.json has a value of another type than expected ({first_line(error)})"
        raise refusal(source, reason) from error


def _check_config(source: str, config: dict[str, Any]) -> None:
    problem = config.get("problem_type")
    labels = config.get("id2label") or {}
    if not isinstance(labels, dict):
        raise refusal(source, "its id2label is no map of outputs to names")
    label_count = len(labels) or config.get("num_labels", 2)  # transformers' own default
    architectures = config.get("architectures") or []
    if label_count < 2 or problem == "regression":
        raise refusal(source, "it has one output (regression or a relevance score); 2 or more labels are needed")
    if problem == "multi_label_classification":
        raise refusal(source, "it is multi-label: a text may have several labels; exactly one label a text is served")
    if (function := config.get("function_to_apply")) not in (None, "softmax"):  # what pipelines heed
        raise refusal(source, f"its scores are made with {function}; workers make them with softmax")
    if architectures and not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise refusal(source, f"its config.json names {architectures[0]}, which is no sequence classifier")
    if config.get("quantization_config"):
        raise refusal(source, "its weights are quantized; import the model that they were made from")
    # sentence-transformers leaves one or the other in its cross encoders, older transformers the task.
    if "sentence_transformers" in config or "sbert_ce_default_activation_function" in config:
        raise refusal(source, "it is a cross encoder, which reads pairs of texts; one text a row is served")
    if config.get("finetuning_task") in PAIR_TASKS or any(
        str(label).lower().startswith("entail") for label in labels.values()
    ):
        raise refusal(source, "it compares pairs of texts (entailment and the like); one text a row is served")


def check_files(source: str) -> None:
    """Refuse weights that are not safetensors, before anything of them is read.

    Raises:
        InputError: With the reason.
    """
    from transformers.utils import cached_file, has_file

    if has_file(source, "adapter_config.json"):
        raise refusal(source, "it is a PEFT adapter; merge it into its base model and save that")
    if not has_file(source, "model.safetensors") and not has_file(source, "model.safetensors.index.json"):
        found = " and has pytorch_model.bin (pickle can run code)" if has_file(source, "pytorch_model.bin") else ""
        raise refusal(source, f"it has no model.safetensors{found}; safetensors only: save it again as such")
    if has_file(source, name := "config_sentence_transformers.json"):
        try:
            settings = json.loads(Path(str(cached_file(source, name))).read_bytes())
        except (ValueError, RecursionError) as error:
            raise refusal(source, f"its {name} is not JSON") from error
        if isinstance(settings, dict) and settings.get("model_type") == "CrossEncoder":
            raise refusal(source, "it is a cross encoder, which reads pairs of texts; one text a row is served")


def read_labels(source: str, id2label: dict[int, str]) -> tuple[str, ...]:
    """Label names in output order.

    Raises:
        InputError: An output has no name, or two have the same.
    """
    if sorted(id2label) != list(range(len(id2label))):
        raise refusal(source, f"id2label should name the outputs 0 to {len(id2label) - 1} but names {sorted(id2label)}")
    labels = tuple(str(id2label[index]) for index in range(len(id2label)))
    if len(set(labels)) < len(labels) or not all(labels):
        raise refusal(source, f"labels should be distinct and not empty but are {list(labels)}; mend id2label")
    if shown := [label for label in labels if harmless(label) != label]:
        raise refusal(source, f"the label {shown[0]!r} has control characters; mend id2label")
    return labels


def refusal(source: str, reason: str) -> InputError:
    """The error of a checkpoint that cannot be served."""
    return InputError(f"{source} cannot be imported: {reason}")
