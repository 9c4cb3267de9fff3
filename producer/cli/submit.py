"""producer submit: read inputs, put their rows on the queue as one job, wait for the scores if asked to."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from producer.cli.options import (
    Duration,
    KeyValue,
    Start,
    come_back_later,
    context_options,
    max_failed_option,
    start,
    timeout_option,
)
from scorequeue.errors import UsageError

if TYPE_CHECKING:
    from producer.inputs import Inputs
    from producer.job import Job
    from producer.readers import ReaderOptions
    from producer.upload import UploadProgress
    from scorequeue.jobs import JobStatus

_INPUT_FORMATS = ("auto", "txt", "csv", "tsv", "jsonl", "parquet")
_OUTPUT_FORMATS = ("jsonl", "csv", "tsv", "parquet", "table")


@click.command(epilog="Example: producer submit in.csv --wait --join --output scored.csv")
@click.argument("paths", metavar="[PATH|-]...", nargs=-1, type=click.Path())
@click.option("--text", "texts", metavar="S", multiple=True, help="A sentence to score instead of a file; repeatable.")
@click.option(
    "--input-format", type=click.Choice(_INPUT_FORMATS), default="auto", show_default=True, help="auto: by the suffix."
)
@click.option("--text-field", metavar="F", help="Name or 1-based number of the text column; default: text, sentence.")
@click.option("--id-field", metavar="F", help="Name or number of the id column; default: id, custom_id, the row.")
@click.option("--no-header", is_flag=True, help="The first line of csv and tsv is a row.")
@click.option("--delimiter", metavar="C", help="Between fields, instead of the comma of csv or the tab of tsv.")
@click.option("--encoding", metavar="E", default="utf-8", show_default=True, help="Encoding of the input.")
@click.option(
    "--lane",
    type=click.Choice(["auto", "express", "bulk"]),
    default="auto",
    show_default=True,
    help="auto: express for at most 64 rows.",
)
@click.option("--model-version", metavar="V", help="Version to score with; default: the one that is current then.")
@click.option("--idempotency-key", metavar="K", help="The same content under the same key is one job, and is resumed.")
@click.option("--metadata", metavar="K=V", type=KeyValue(), multiple=True, help="A label of your own; repeatable.")
@click.option(
    "--chunk-rows",
    type=click.IntRange(1, 65_536),
    envvar="SCOREQUEUE_CHUNK_ROWS",
    show_envvar=True,
    help="Rows that are claimed together; default: 256.",
)
@click.option(
    "--max-outstanding",
    type=click.IntRange(1),
    envvar="SCOREQUEUE_MAX_OUTSTANDING",
    show_envvar=True,
    help="Rows waiting in the lane above which the upload pauses; default: 500000.",
)
@click.option("--deadline", metavar="D", type=Duration(), help="Drop what is not scored after this long (15m, 2h, 7d).")
@click.option(
    "--ttl",
    metavar="D",
    type=Duration(),
    envvar="SCOREQUEUE_TTL_S",
    show_envvar=True,
    help="Keep results this long after the end; default: 7d.",
)
@click.option("--dry-run", is_flag=True, help="Report what is in the inputs, and submit nothing; needs no Redis.")
@click.option("--wait", is_flag=True, help="Wait for the scores and write them.")
@timeout_option
@max_failed_option("With --wait or --dry-run: exit with 8 if more rows fail.")
@click.option(
    "--join", is_flag=True, help="With --wait: the input's own columns and pred_label, pred_score, pred_error."
)
@click.option(
    "--format", "output_format", type=click.Choice(_OUTPUT_FORMATS), help="With --wait: how results are written."
)
@click.option("--output", metavar="FILE", type=click.Path(), help="With --wait: where results are written.")
@click.option("--json", "as_json", is_flag=True, help="Print the job's status, or the --dry-run, as JSON.")
@context_options
@click.pass_context
def submit(ctx: click.Context, /, **options: Any) -> None:
    """Submit files of sentences as one job, and print its id.

    Reads txt, csv, tsv, jsonl and parquet, each also gzipped, from files, from patterns such as 'data/*.csv' and from
    standard input (-), and says on stderr which format and columns it chose. Rows that cannot be scored keep their
    place and end as failed rows with their line number; --dry-run finds them beforehand. With --wait the results are
    written instead of the id, as a table on a terminal, else in the format of --output or as jsonl.
    """
    options["paths"] = _expanded(options["paths"])
    _check(options)
    started = start(
        ctx, chunk_rows=options["chunk_rows"], max_outstanding=options["max_outstanding"], ttl_s=options["ttl"]
    )
    with ExitStack() as stack:
        source = _Source(started, options, stack)
        if options["dry_run"]:
            from producer.cli.dry_run import report_inputs

            report_inputs(started, source.inputs, options)
            return
        for line in source.inputs.descriptions():
            started.narrator.note(line)
        with stack.enter_context(started.connect()) as client:
            key = options["idempotency_key"]
            come_back_later(_incomplete(key))
            timeout_s = options["timeout"]
            give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
            with started.narrator.upload(source.inputs) as tell:

                def on_progress(state: UploadProgress) -> None:
                    if state.whole_job is not None:
                        come_back_later(_goes_on(state.whole_job))
                    elif state.job_id is not None and key:
                        come_back_later(_incomplete(key, f"The upload of job {state.job_id}"))
                    if state.note is not None:
                        started.narrator.note(state.note)
                    tell(state)

                job = client.submit(
                    source.inputs,
                    lane=options["lane"],
                    model_version=options["model_version"],
                    idempotency_key=key,
                    metadata=dict(options["metadata"]),
                    deadline_s=options["deadline"],
                    timeout_s=timeout_s,
                    on_progress=on_progress,
                )
            come_back_later(_goes_on(job.id))
            if options["wait"]:
                left_s = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                _wait(started, job, source, options, timeout_s=left_s)
            else:
                _print_submitted(started, job, as_json=options["as_json"])


def _incomplete(key: str | None, what: str = "The upload") -> str:
    if key is None:
        return f"{what} is not complete; nothing keeps it (an --idempotency-key would)."
    return f"{what} is not complete; the same command goes on with it (--idempotency-key {key})"


def _goes_on(job_id: str) -> str:
    return f"Job {job_id} goes on; see: producer status {job_id}, producer results {job_id}"


class _Source:
    """The inputs of a submit, which can be opened a second time if results are joined to them."""

    def __init__(self, started: Start, options: dict[str, Any], stack: ExitStack) -> None:
        from producer.inputs import Inputs
        from producer.joinable import check_join
        from producer.patterns import shown
        from producer.writers import choose_format

        self._texts: tuple[str, ...] = options["texts"]
        self._stack = stack
        self._options = _reader_options(started, options)
        self.paths: list[str] = list(options["paths"]) or ([] if self._texts else ["-"])
        names = shown(self.paths)  # one that is no UTF-8 would not travel to the ledger
        to_terminal = sys.stdout.isatty()
        # A table on a terminal shows the sentences, so it reads the input again too.
        is_shown = choose_format(options["output_format"], options["output"], is_terminal=to_terminal, joined="csv")
        self.is_joined = options["wait"] and not options["dry_run"] and (options["join"] or is_shown == "table")
        if self.is_joined:
            self.paths = [_spooled(path, stack) if _is_read_once(path) else path for path in self.paths]
        if self._texts:
            self.inputs = Inputs.of_texts(self._texts, self._options)
        else:
            self.inputs = Inputs.open(self.paths, self._options, names=names, only_rows=True)
        stack.callback(self.inputs.close)
        self.output_format = "jsonl"
        if options["wait"]:
            joined = self.inputs.readers[0].input_format if self.is_joined else None
            self.output_format = choose_format(
                options["output_format"], options["output"], is_terminal=to_terminal, joined=joined
            )
        self.columns = check_join(self.inputs, self.output_format) if self.is_joined else None

    def again(self, reader_options: dict[str, str], status: JobStatus) -> Inputs:
        """Open the inputs again, the way the job read them."""
        from producer.inputs import Inputs

        if self._texts:
            return Inputs.of_texts(self._texts, self._options)
        inputs = Inputs.reopen(self.paths, reader_options, names=status.source)
        self._stack.callback(inputs.close)
        return inputs


def _wait(started: Start, job: Job, source: _Source, options: dict[str, Any], *, timeout_s: float | None) -> None:
    """Wait for the end, write the results, and judge them."""
    from producer.cli.show import missing_workers_teller, print_status, write_results
    from producer.cli.verdict import judge

    started.narrator.note(f"job {job.id}")
    tell_of_workers = missing_workers_teller(started.narrator)
    with started.narrator.scoring() as tell:

        def on_status(status: JobStatus) -> None:
            tell_of_workers(status)
            tell(status)

        status = job.wait(timeout_s, on_status=on_status)
    come_back_later(f"Job {job.id} is {status.state}; see: producer results {job.id}")
    inputs = source.again(job.reader().reader_options(), status) if source.is_joined else None
    is_to_file = options["output"] not in (None, "-")
    if is_to_file or not options["as_json"]:
        write_results(
            job,
            output_format=source.output_format,
            output=options["output"],
            inputs=inputs,
            columns=source.columns,
            partial=False,
        )
    if is_to_file:
        started.narrator.note(f"wrote {status.total - status.cancelled:,} rows to {options['output']}")
    if options["as_json"]:
        print_status(status, as_json=True)
    judge(status, options["max_failed"])


def _print_submitted(started: Start, job: Job, *, as_json: bool) -> None:
    from producer.cli.show import note_missing_workers, print_status

    if not as_json:
        # The id goes first: whatever happens now, the job is there.
        click.echo(job.id)
    if as_json or not started.narrator.is_quiet:
        status = job.status()
        if as_json:
            print_status(status, as_json=True)
        note_missing_workers(status, started.narrator)


def _expanded(paths: tuple[str, ...]) -> tuple[str, ...]:
    from producer.patterns import expand

    return expand(paths)


def _check(options: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    if options["paths"] and options["texts"]:
        raise UsageError("expected either files or --text, got both; submit them as two jobs")
    if list(options["paths"]).count("-") > 1:
        raise UsageError("expected - (standard input) once, got it twice")
    if not options["paths"] and not options["texts"] and sys.stdin.isatty():
        raise UsageError("expected a file, --text or rows on standard input, got nothing; see: producer submit --help")
    if options["idempotency_key"] == "":
        raise UsageError("expected an --idempotency-key of at least one character, got ''; leave it out for none")
    keys = [key for key, _ in options["metadata"]]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError(f"expected each --metadata key once, got {twice!r} twice")
    if options["wait"] and options["as_json"] and options["join"] and options["output"] in (None, "-"):
        raise UsageError("expected --output FILE with --wait --json --join: standard output gets the status")
    if not options["wait"]:
        for name, flag in (("join", "--join"), ("output_format", "--format"), ("output", "--output")):
            if options[name]:
                raise UsageError(f"expected {flag} together with --wait; without it see: producer results --help")
    from producer.output import check_output

    check_output(options["output"], inputs=options["paths"])


def _reader_options(started: Start, options: dict[str, Any]) -> ReaderOptions:
    from producer.readers import ReaderOptions

    return ReaderOptions(
        input_format=options["input_format"],
        text_field=options["text_field"],
        id_field=options["id_field"],
        has_header=not options["no_header"],
        delimiter=options["delimiter"],
        encoding=options["encoding"],
        max_text_bytes=started.settings.max_text_bytes,
    )


def _is_read_once(path: str) -> bool:
    """Whether the input is standard input, a pipe or a device."""
    return path == "-" or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def _spooled(path: str, stack: ExitStack) -> str:
    """Copy what can be read only once to a file that lives as long as the stack."""
    from pathlib import PurePath

    from producer.patterns import shown
    from producer.readers.streams import open_bytes
    from producer.spool import named_copy

    (name,) = ("stdin",) if path == "-" else shown([path])
    source = open_bytes(path, name)
    if path != "-":
        stack.callback(source.close)
    return stack.enter_context(named_copy(source, name=name, suffix="".join(PurePath(path).suffixes)))
