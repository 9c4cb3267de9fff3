"""How often a checkpoint agrees with us on the demo's sentences: python -m tests.benchmarks.demo_accuracy FOLDER."""

from __future__ import annotations

import sys

from tests.unit.test_training_demo import ACCEPTABLE, read_demo
from training.predict import Predictor


def main(folder: str) -> None:
    """Print each sentence with the probability of `acceptable`, and the share of verdicts that are ours too."""
    sentences = read_demo()
    scores = Predictor(folder).score(sentences)[:, 1].tolist()
    agreed = 0
    for sentence, score in zip(sentences, scores, strict=True):
        agrees = (score > 0.5) == (sentence in ACCEPTABLE)
        agreed += agrees
        print(f"{score:.3f} {'      ' if agrees else 'differs'} {sentence}")
    print(f"{agreed} of {len(sentences)}")


if __name__ == "__main__":
    main(sys.argv[1])
