"""Patterns such as ``data/*.csv`` that no shell has expanded, and names as messages show them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from scorequeue.errors import InputError


def expand(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths with each pattern replaced by the files that it stands for, sorted by name.

    A path that exists is taken as it is, whatever characters are in it. ``**`` stands for any folders. Folders are left
    out, and so are files whose name begins with a dot unless the pattern says so.

    Args:
        paths: Paths, patterns, or ``-``.

    Raises:
        InputError: No file matches a pattern.
    """
    found: list[str] = []
    for path in paths:
        if not glob.has_magic(path) or os.path.lexists(path):
            found.append(path)
            continue
        files = sorted(name for name in glob.iglob(path, recursive=True) if not os.path.isdir(name))
        if not files:
            raise InputError(f"{shown([path])[0]}: expected a file or a pattern of files, found none that matches")
        found.extend(files)
    return tuple(found)


def shown(paths: Iterable[str]) -> tuple[str, ...]:
    """Return paths as rows and messages carry them: a name may hold bytes that are no UTF-8."""
    return tuple("stdin" if path == "-" else os.fsencode(path).decode(errors="replace") for path in paths)
