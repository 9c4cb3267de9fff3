"""The ``producer`` command, and ``python -m producer``.

Ctrl-C ends a command with 130 from its first moment on: what is imported next takes longer than a person who has seen a
typing error, and neither a half-loaded module nor its trace is of use to anybody.
"""

import os
import signal


def _leave(*_: object) -> None:
    """End a process that has not done anything yet."""
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
    signal.signal(signal.SIGINT, _leave)

from producer.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    main()
