"""producer completion: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click


@click.command(epilog='Example: eval "$(producer completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    bash (4.4 or newer) and zsh take it with eval, in ~/.bashrc or ~/.zshrc; fish reads it from the file
    ~/.config/fish/completions/producer.fish.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, f"click completes {shell}"
    click.echo(made(ctx.find_root().command, {}, "producer", "_PRODUCER_COMPLETE").source())
