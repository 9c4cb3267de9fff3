"""What producer, worker and training share: jobs, codec, keys, ledger, queue, registry, settings, errors."""

__version__ = "0.1.0"
