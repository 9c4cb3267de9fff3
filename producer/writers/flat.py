"""Results as jsonl, csv and tsv lines, from columns.

A chunk is written with one ``%`` over all its values, which is about three times as fast as a format a row.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from json.encoder import encode_basestring as json_text

from scorequeue.columns import ChunkResult

_BREAKS = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_NEEDS_QUOTES = re.compile('[,"\n\r]|^ | $')


def render_results(
    output_format: str, chunks: Iterable[ChunkResult], *, only_errors: bool = False
) -> Iterator[str] | Iterator[bytes]:
    """Yield results, as text or as the bytes of a parquet file.

    Args:
        output_format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``.
        chunks: The results in input order.
        only_errors: Whether to leave out the rows that were scored.
    """
    if output_format == "parquet":
        from producer.writers.columnar import results_parquet

        return results_parquet(chunks, only_errors=only_errors)
    if output_format == "jsonl":
        return (_jsonl_chunk(chunk, only_errors) for chunk in chunks)
    field, delimiter = (csv_field, ",") if output_format == "csv" else (tsv_field, "\t")
    return _delimited(field, delimiter, chunks, only_errors)


def csv_field(text: str) -> str:
    """Return a field as RFC 4180 wants it."""
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def tsv_field(text: str) -> str:
    """Return a field for a format without quoting: a tab or a line break in it becomes a space."""
    return _BREAKS.sub(" ", text)


def best_labels(result: ChunkResult) -> tuple[list[str], list[float], list[tuple[float, ...]]]:
    """Return each row's best label, its score, and all its scores; of no meaning where a row failed."""
    width = len(result.labels)
    flat = result.scores.tolist()
    rows = list(zip(*[iter(flat)] * width, strict=True))
    best = list(map(max, rows))
    return [result.labels[row.index(score)] for row, score in zip(rows, best, strict=True)], best, rows


def labels_first(chunks: Iterable[ChunkResult]) -> tuple[Iterator[ChunkResult], tuple[str, ...]]:
    """Return all the chunks, and the labels of the first one that has any."""
    chunks = iter(chunks)
    held: list[ChunkResult] = []
    for chunk in chunks:
        held.append(chunk)
        if chunk.labels:
            break
    return chain(held, chunks), held[-1].labels if held else ()


def _jsonl_chunk(result: ChunkResult, only_errors: bool) -> str:
    scores = ", ".join(_literal(json_text(label)) + ": %.6f" for label in result.labels)
    line = (
        '{"row": %d, "id": %s, "label": %s, "score": %.6f, "scores": {' + scores + '}, "truncated": %s, '
        f'"model_version": {_literal(json_text(result.model_version))}}}\n'
    )
    return _fill(line, result, _jsonl_error, quote=json_text, only_errors=only_errors)


def _jsonl_error(result: ChunkResult, offset: int) -> str:
    code, message = result.errors[offset]
    source, line = result.origins.get(offset, (None, None))
    number = result.first_row + offset
    row_id = str(number) if result.ids is None else result.ids[offset]
    value = {"row": number, "id": row_id, "source": source, "line": line, "error": {"code": code, "message": message}}
    return json.dumps(value, ensure_ascii=False) + "\n"


def _delimited(
    field: Callable[[str], str], delimiter: str, chunks: Iterable[ChunkResult], only_errors: bool
) -> Iterator[str]:
    """Yield a header and the rows. The labels are those of the first chunk that has any."""
    chunks, labels = labels_first(chunks)
    score_names = [f"score_{label}" for label in labels]
    names = ["row", "id", "label", "score", *score_names, "truncated", "model_version", "error_code", "error_message"]
    yield delimiter.join(map(field, names)) + "\n"

    def error_line(result: ChunkResult, offset: int) -> str:
        number = result.first_row + offset
        row_id = str(number) if result.ids is None else result.ids[offset]
        code, message = result.errors[offset]
        cells = [str(number), row_id, "", "", *[""] * len(labels), "", result.model_version, code.value, message]
        return delimiter.join(map(field, cells)) + "\n"

    for chunk in chunks:
        version = _literal(field(chunk.model_version))
        cells = ["%d", "%s", "%s", "%.6f", *["%.6f"] * len(labels), "%s", version, "", ""]
        line = delimiter.join(cells) + "\n"
        yield _fill(line, chunk, error_line, quote=field, only_errors=only_errors)


def _fill(
    line: str,
    result: ChunkResult,
    error_line: Callable[[ChunkResult, int], str],
    *,
    quote: Callable[[str], str],
    only_errors: bool,
) -> str:
    """Return a chunk's lines.

    Args:
        line: Template of a scored row: row, id, label, score, each label's score, truncated.
        result: The chunk.
        error_line: Makes the line of the failed row at an offset.
        quote: Makes a field of a text.
        only_errors: Whether to leave out the rows that were scored.
    """
    if only_errors or not result.labels:
        return "".join(error_line(result, offset) for offset in sorted(result.errors))
    labels, best, rows = best_labels(result)
    quoted = {label: quote(label) for label in result.labels}
    numbers = range(result.first_row, result.first_row + result.rows)
    ids = map(quote, result.ids if result.ids is not None else map(str, numbers))
    cut = ["false"] * result.rows
    for offset in result.truncated:
        cut[offset] = "true"
    columns: Iterable[tuple[int, str, str, float, tuple[float, ...], str]]
    columns = zip(numbers, ids, [quoted[label] for label in labels], best, rows, cut, strict=True)
    template = line * result.rows
    if result.errors:
        lines = [line] * result.rows
        for offset in result.errors:
            lines[offset] = _literal(error_line(result, offset))
        template = "".join(lines)
        columns = (values for offset, values in enumerate(columns) if offset not in result.errors)
    return template % tuple(
        value
        for number, row_id, label, score, scores, is_cut in columns
        for value in (number, row_id, label, score, *scores, is_cut)
    )


def _literal(text: str) -> str:
    """Return a text that stands for itself in a template."""
    return text.replace("%", "%%")


def csv_lines(rows: Iterable[Sequence[str]], *, delimiter: str = ",") -> str:
    """Return records as csv text."""
    text = io.StringIO()
    # The writer quotes what its line ends hold, so a lone carriage return needs \r\n; what is written ends in \n.
    csv.writer(_UnixEnds(text), delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


class _UnixEnds:
    """Takes whole csv records, and ends them as Unix does."""

    def __init__(self, text: io.StringIO) -> None:
        self._text = text

    def write(self, record: str) -> None:
        self._text.write(record[:-2] + "\n")
