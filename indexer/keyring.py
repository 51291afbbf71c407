"""The installation's key: made once, kept beside the data, wrapped by the key that the administrator keeps.

``keyring.json`` in the data folder holds the key that everything is sealed with, wrapped (AES key wrap, RFC 3394)
by the one in `storage.encryption_key_file`. That one can be exchanged without sealing anything anew.
"""

import base64
import binascii
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from config.errors import ConfigError
from indexer.durable import sync
from indexer.errors import Damaged, Transient
from indexer.sealing import KEY_BYTES, Vault

KEYRING = "keyring.json"
_FORMAT = 1


def new_key() -> str:
    """Make a key for a key file: 256 bits at random, as base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def read_key(file: Path) -> bytes:
    """Read the administrator's key; nothing of it is ever repeated.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no key.
    """
    try:
        key = base64.b64decode(file.read_text(encoding="ascii").strip(), validate=True)
    except OSError as error:
        raise ConfigError([f"storage.encryption_key_file {file}: cannot be read: {error.strerror}"]) from error
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            [
                f"storage.encryption_key_file {file}: expected {KEY_BYTES} bytes as base64, as "
                "`pacsimile key new` makes them, got something else"
            ]
        )
    return key


@dataclass(frozen=True)
class Keyring:
    """What ``keyring.json`` says.

    Attributes
    ----------
    key_id : str
        Of the key that seals, in hexadecimal.
    wrapped : str
        That key, wrapped, in hexadecimal.
    is_complete : bool
        Whether all data are sealed; False while plain ones are being sealed.
    """

    key_id: str
    wrapped: str
    is_complete: bool

    def unlock(self, key: bytes) -> Vault:
        """Open with the administrator's key.

        Raises
        ------
        ConfigError
            It is another key than the one that the data are sealed with.
        """
        try:
            vault = Vault(aes_key_unwrap(key, bytes.fromhex(self.wrapped)))
        except (InvalidUnwrap, ValueError) as error:
            raise ConfigError(
                ["storage.encryption_key_file: expected the key that this data folder is sealed with, got another"]
            ) from error
        if vault.key_id.hex() != self.key_id:
            raise Damaged(f"{KEYRING} is not what was written: its key is not the one that it names")
        return vault

    def rewrapped(self, old: bytes, new: bytes) -> "Keyring":
        """Exchange the administrator's key; raises as `unlock`."""
        self.unlock(old)
        return replace(self, wrapped=aes_key_wrap(new, aes_key_unwrap(old, bytes.fromhex(self.wrapped))).hex())


def make_keyring(key: bytes, *, is_complete: bool) -> Keyring:
    """Make an installation's key, wrapped by the administrator's."""
    data_key = os.urandom(KEY_BYTES)
    return Keyring(Vault(data_key).key_id.hex(), aes_key_wrap(key, data_key).hex(), is_complete)


def read_keyring(data_dir: Path) -> Keyring | None:
    """Read the keyring of a data folder; None if it has none.

    Raises
    ------
    Damaged
        There is one, and it is not what was written.
    Transient
        It cannot be read now.
    """
    try:
        known = json.loads((data_dir / KEYRING).read_text(encoding="utf-8"))
        if known.pop("format") != _FORMAT:
            raise Damaged(f"expected {KEYRING} of format {_FORMAT}, got another")
        return Keyring(str(known["key_id"]), str(known["wrapped"]), bool(known["is_complete"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Transient(f"{KEYRING} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{KEYRING} is not what was written") from error


def write_keyring(data_dir: Path, keyring: Keyring, *, is_new: bool) -> None:
    """Write the keyring durably; the old one is there until the new one is.

    Parameters
    ----------
    is_new : bool
        There is none yet; if somebody else was quicker, theirs stays.

    Raises
    ------
    Transient
        It cannot be written.
    """
    known = {"format": _FORMAT, **keyring.__dict__}
    fresh = data_dir / f"{KEYRING}.{uuid4().hex}"
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(json.dumps(known, indent=1) + "\n")
            file.flush()
            os.fsync(descriptor)
        if is_new:
            with suppress(FileExistsError):
                (data_dir / KEYRING).hardlink_to(fresh)
            fresh.unlink()
        else:
            fresh.replace(data_dir / KEYRING)
        sync(data_dir)
    except OSError as error:
        raise Transient(f"{KEYRING} cannot be written: {error.strerror}") from error
