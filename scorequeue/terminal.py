"""What a caller's texts may do to a terminal: nothing."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # the terminal's own commands, line breaks and tabs too
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which way the text runs
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"  # breaks, marks, tags, what is no text
)


def harmless(text: str) -> str:
    r"""Return a text with its control characters shown (``\x1b``) instead of obeyed.

    What a caller named or wrote must neither pass for a line of ours, nor colour, move or rename a terminal.
    """
    return _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
