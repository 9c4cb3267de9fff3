"""Keep other libraries' talk off stderr, where one progress bar and one summary line belong."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TALKATIVE_LOGGERS = (
    "pytorch_lightning",  # "GPU available: False", tips for its paid services
    "lightning_fabric",
    "lightning",
    "httpx",  # one line per request to the hub; its newer versions
    "httpx2",
    "huggingface_hub",
    "datasets",
    "mlflow",
    "alembic",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars, load reports and tips of Lightning and transformers; all is restored at the end."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in TALKATIVE_LOGGERS]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # A sequence classifier from an encoder always reports a missing head: that head is what is fitted.
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        with warnings.catch_warnings():
            # Lightning wants loader processes; a batch takes 0.1 ms to build, far less than to hand over.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # torch 2.13 deprecates a pytree call that Lightning 2.6 makes.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            # A resumed fit says where its batches go on in SentenceData, not in the loader where Lightning looks.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", message=".* directory .* exists and is not empty")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
