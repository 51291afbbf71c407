"""`pacsimile encryption`: keys, and the archive that they seal."""

import os
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import AsJson, ConfigFile, DataDir, settings_from
from node.cli.output import console, print_json, progress_bar

app = typer.Typer(
    no_args_is_help=True,
    help="Encryption of what lies on the disk (storage.encryption_key_file): docs/encryption.md.",
)


@app.command("new-key")
def new_key(file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")]) -> None:
    """Make a key. Keep a copy elsewhere: without it nothing of the archive can be read, backups included."""
    from config.errors import ConfigError
    from indexer.keyring import new_key as make

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError([f"{file}: cannot be made: {error.strerror}"]) from error
    with open(descriptor, "w", encoding="ascii") as opened:  # noqa: PTH123 - a descriptor
        opened.write(make() + "\n")
    console.print(f"A new key is in {file}. Keep a copy elsewhere.")


@app.command("seal")
def seal(data_dir: DataDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """Encrypt an archive that was kept in plain; no node may run on it.

    Interrupt it at any time and start it again: it goes on where it was.
    """
    from node import logs
    from node.conversion import seal as run

    settings = settings_from(config, data_dir=data_dir)
    logs.configure_for_command(settings.log)
    with progress_bar() as bar:
        sealed = run(settings, lambda what, items: bar.track(items, description=what))
    if json:
        print_json({"sealed": sealed})
    else:
        console.print(f"All is encrypted; {sealed} files were encrypted now.")


@app.command("rotate")
def rotate(
    new_key_file: Annotated[Path, typer.Argument(help="File of the new key, made by new-key.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Let another key open the archive; the present one does no more. No node may run on it.

    Afterwards name the new file in storage.encryption_key_file. Older backups still need the old key.
    """
    from node.conversion import rotate as run

    run(settings_from(config, data_dir=data_dir), new_key_file)
    console.print(f"The archive opens with {new_key_file} now: name it in storage.encryption_key_file.")
