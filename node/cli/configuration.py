"""`pacsimile config`: the settings, and what goes into their file."""

import secrets
from hashlib import sha256
from json import dumps
from typing import Annotated

import typer

from config.web import Scope
from node.cli.options import AsJson, ConfigFile

app = typer.Typer(no_args_is_help=True, help="Look at the settings.")


@app.command("check")
def check(config: ConfigFile = None, json: AsJson = False) -> None:
    """Check the settings, all problems at once, that no stranger gets in, and that the encoder's weights are there.

    Prints what is in force and where it comes from; secrets, and addresses that may hold one, are masked.
    """
    from node.cli.settings import check

    check(config, as_json=json)


@app.command("token")
def token(
    name: Annotated[str, typer.Argument(help="Who is to have it.")],
    scopes: Annotated[list[Scope], typer.Argument(help="What it allows over HTTP.")],
    cohort: Annotated[str, typer.Option(help="Name of one of the cohorts.")] = "",
) -> None:
    """Make a token for HTTP, shown once, and the table for the settings' file, which holds its SHA-256 only."""
    token = secrets.token_hex(32)
    lines = ["[[http.clients]]", f"name = {dumps(name)}", f'sha256 = "{sha256(token.encode()).hexdigest()}"']
    lines += [f"scopes = {dumps([str(one) for one in scopes])}", *([f"cohort = {dumps(cohort)}"] if cohort else [])]
    typer.echo(f"# The token, for who is to have it: {token}", err=True)
    typer.echo("\n".join(lines))


@app.command("defaults")
def defaults() -> None:
    """Print every setting with its default and meaning, as a file to start from."""
    from config.load import defaults_text

    typer.echo(defaults_text(), nl=False)
