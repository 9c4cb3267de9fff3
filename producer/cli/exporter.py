"""producer exporter: queue-wide gauges for Prometheus."""

from __future__ import annotations

import click

from producer.cli.options import context_options, start


@click.command(epilog="Example: producer exporter --host 0.0.0.0 --port 9180")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=9180,
    show_default=True,
    envvar="SCOREQUEUE_EXPORTER_PORT",
    show_envvar=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    envvar="SCOREQUEUE_EXPORTER_HOST",
    show_envvar=True,
    help="Address to listen on; a container needs 0.0.0.0.",
)
@context_options
@click.pass_context
def exporter(ctx: click.Context, port: int, host: str) -> None:
    """Give Prometheus the gauges of the whole queue.

    Backlog, leases, live workers, memory; one exporter is enough for a namespace. It reads Redis when a scrape comes,
    goes on while Redis or all workers are away, and ends with 0 at SIGTERM or Ctrl-C. Its user needs only to read
    (exporter in deploy/redis/users.acl).
    """
    from producer.exporter import serve, stop_at_signals

    started = start(ctx)
    serve(started.settings, host=host, port=port, stop=stop_at_signals())
