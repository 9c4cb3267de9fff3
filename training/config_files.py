"""Configs as YAML files: those of the user, and those that are shipped under a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from scorequeue.errors import InputError, UsageError

NAMES = ("quick", "cola", "seed")
"""Shipped configs: ``training/configs/NAME.yaml``."""


def read_config(config: str) -> dict[str, Any]:
    """The settings of a config, by key, not checked yet.

    Args:
        config: One of `NAMES`, else a file.

    Raises:
        UsageError: There is no such file.
        InputError: The file cannot be read, is not YAML, is empty, holds no mapping, or names a key twice.
    """
    if config in NAMES:
        content = (resources.files("training") / "configs" / f"{config}.yaml").read_bytes()
        return _parse(content, name=f"{config}.yaml")
    try:
        content = Path(config).read_bytes()
    except FileNotFoundError as error:
        hint = closest(config, NAMES)
        raise UsageError(f"no config {config!r}{hint}; expected {', '.join(NAMES)} or a YAML file") from error
    except OSError as error:
        raise InputError(f"{config} cannot be read: {error.strerror}; expected a YAML file of settings") from error
    return _parse(content, name=config)


def closest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, as the end of a message; empty where nothing is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _parse(content: bytes, *, name: str) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML takes the last of two equal keys and says nothing."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise InputError(f"{name} names {twice} twice (line {node.start_mark.line + 1} on); keep one of them")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(content, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise InputError(f"{where} is not YAML: {what}; expected lines like `epochs: 5`") from error
    if values is None:
        raise InputError(f"{name} is empty; expected lines like `epochs: 5`")
    if not isinstance(values, dict):
        raise InputError(f"{name} holds a {type(values).__name__}, expected settings by name, lines like `epochs: 5`")
    if wrong := [key for key in values if not isinstance(key, str)]:
        raise InputError(f"{name} has the key {wrong[0]!r}, expected the name of a setting")
    return values
