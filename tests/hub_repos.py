"""Repositories for `tests.hub` as they are on the real hub: GLUE's CoLA, and the smallest BERT with its old files."""

from __future__ import annotations

import io
import json
import string

from tests.hub import Hub
from tests.tiny import COMMON_WORDS, WORD_ENDINGS
from training import sample

GLUE = "nyu-mll/glue"
SMALLEST_BERT = "google/bert_uncased_L-2_H-128_A-2"

GLUE_CARD = """\
---
language:
- en
license: other
pretty_name: GLUE (General Language Understanding Evaluation benchmark)
config_names:
- ax
- cola
dataset_info:
- config_name: ax
  features:
  - name: premise
    dtype: string
- config_name: cola
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': unacceptable
          '1': acceptable
  - name: idx
    dtype: int32
  splits:
  - name: train
    num_bytes: 0
    num_examples: {train}
  - name: validation
    num_bytes: 0
    num_examples: {validation}
  - name: test
    num_bytes: 0
    num_examples: {test}
configs:
- config_name: ax
  data_files:
  - split: test
    path: ax/test-*
- config_name: cola
  data_files:
  - split: train
    path: cola/train-*
  - split: validation
    path: cola/validation-*
  - split: test
    path: cola/test-*
---
# Dataset Card for GLUE
"""


def add_glue(hub: Hub, *, train_pairs: int = 60, dev_pairs: int = 20) -> dict[str, list[tuple[str, int]]]:
    """Add GLUE with made sentences in CoLA's place.

    Returns:
        The rows of each part, sentence and label; those of ``test`` have the label -1, as GLUE keeps it to itself.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, dev = sample.make(seed=1, train_pairs=train_pairs, dev_pairs=dev_pairs)
    parts = {"train": train, "validation": dev, "test": [(text, -1) for text, _ in dev[:5]]}
    files: dict[str, bytes | str] = {"README.md": GLUE_CARD.format(**{name: len(rows) for name, rows in parts.items()})}
    for name, rows in parts.items():
        table = pa.table(
            {
                "sentence": [text for text, _ in rows],
                "label": pa.array([label for _, label in rows], pa.int64()),
                "idx": pa.array(range(len(rows)), pa.int32()),
            }
        )
        out = io.BytesIO()
        pq.write_table(table, out)
        files[f"cola/{name}-00000-of-00001.parquet"] = out.getvalue()
    out = io.BytesIO()
    pq.write_table(pa.table({"premise": ["The cat sat."]}), out)
    files["ax/test-00000-of-00001.parquet"] = out.getvalue()  # the patterns of every config are looked up
    hub.add(GLUE, files, kind="datasets")
    return parts


def add_smallest_bert(hub: Hub, *, has_safetensors: bool = False) -> None:
    """Add BERT of 2 layers and 128 dimensions with weights made at random.

    Its files are those of 2020: no ``model_type`` in config.json, a vocab.txt and no tokenizer.json, pickled weights.
    """
    import torch
    from safetensors.torch import save
    from transformers import BertConfig, BertForPreTraining

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = {"hidden_act": "gelu", "initializer_range": 0.02, "vocab_size": 30522, "hidden_dropout_prob": 0.1, **sizes}
    config |= {"attention_probs_dropout_prob": 0.1, "type_vocab_size": 2, "max_position_embeddings": 512}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForPreTraining(BertConfig(**config))
    files: dict[str, bytes | str] = {
        ".gitattributes": "*.bin filter=lfs\n",
        "README.md": "---\nlicense: apache-2.0\n---\nBERT Miniatures\n",
        "config.json": json.dumps(config),
        "vocab.txt": "\n".join(_vocabulary(config["vocab_size"])) + "\n",
    }
    if has_safetensors:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        files["model.safetensors"] = save(weights, metadata={"format": "pt"})
    else:
        out = io.BytesIO()
        torch.save(model.state_dict(), out)
        files["pytorch_model.bin"] = out.getvalue()
    hub.add(SMALLEST_BERT, files)


def _vocabulary(size: int) -> list[str]:
    """Words with the special tokens where BERT has them."""
    pieces = [f"[unused{place}]" for place in range(size)]
    pieces[0] = "[PAD]"
    pieces[100:104] = "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    letters = string.ascii_lowercase + string.digits
    known = [
        *letters,
        *string.punctuation,
        *(f"##{piece}" for piece in (*letters, *WORD_ENDINGS)),
        *COMMON_WORDS.split(),
    ]
    known = list(dict.fromkeys(known))
    pieces[999 : 999 + len(known)] = known
    return pieces
