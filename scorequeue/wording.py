"""What pydantic refused, in our words: what was expected, and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_unicode": "text in UTF-8",
    "string_type": "text",
    "string_too_short": "text of at least {min_length} character",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "dict_type": "a dict",
} | {
    f"{kind}_{how}": what
    for kind, what in (("int", "a whole number"), ("float", "a number"), ("bool", "true or false"))
    for how in ("type", "parsing", "from_float", "parsing_size")
}


def refusal(error: ErrorDetails) -> str:
    """Say what was expected and what came; a validator of ours has said both itself."""
    facts = error.get("ctx", {})
    if error["type"] == "value_error":
        said = str(facts["error"])
        return said if ", got " in said else f"{said}, got {error['input']!r}"
    if error["type"] not in _EXPECTED:
        return f"{error['msg']}, got {error['input']!r}"
    return f"expected {_EXPECTED[error['type']].format(**facts)}, got {error['input']!r}"
