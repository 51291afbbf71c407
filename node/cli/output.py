"""What every command prints with: people read standard output, machines its JSON; errors and progress go beside."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever json can write
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def print_problem(problem: str) -> None:
    """Print what is wrong on standard error."""
    errors.print(Text.assemble(("✗ ", "red"), printable(problem)))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; nothing where it has no rows."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console.print(table, soft_wrap=False)


def printable(text: str) -> str:
    """Show what no terminal should be sent - control characters, broken file names - as U+FFFD."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def progress_bar() -> Progress:
    """Make a progress bar on standard error, so that standard output stays clean."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
    )
