"""The node's log: one line an event, on standard error or in files that rotate, without patient data."""

import json
import logging
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, date, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from config.model import Settings
from config.telling import LogSettings

_FOLDER = "logs"
_DAY_S = 86_400

_FORMAT = "%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s"
_QUIET = {
    "aiobotocore": logging.WARNING,
    "alembic": logging.WARNING,
    "botocore": logging.WARNING,
    "grpc": logging.CRITICAL,
    "highdicom": logging.ERROR,
    "milvus_lite": logging.CRITICAL,
    "pydicom": logging.ERROR,
    "pymilvus": logging.ERROR,
    "pynetdicom": logging.ERROR,
    "urllib3": logging.ERROR,
    "uvicorn": logging.WARNING,
}
"""Loggers of libraries that repeat attribute values, or say at length what we say ourselves."""


def configure(settings: Settings, process: str = "node") -> None:
    """Write records from the level of the settings on, with the name of the process that they come from.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    known = settings.log
    handler = logging.StreamHandler(sys.stderr) if known.to == "stderr" else _file(settings, process)
    handler.setFormatter(_Json(process) if known.format == "json" else _Text(process))
    _use(handler, known.level)


def configure_for_command(settings: LogSettings) -> None:
    """Send only warnings to standard error, unless everything was asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text("command"))
    _use(handler, "DEBUG" if settings.level == "DEBUG" else "WARNING")


class RotatingFile(RotatingFileHandler):
    """A file that its owner alone may read; closed at a size and at midnight, UTC, and kept for some days.

    Parameters
    ----------
    file_bytes, files : int
        How long a file gets, and how many closed ones are kept.
    days : int
        How long each of these is kept.
    """

    def __init__(self, file: Path, file_bytes: int, files: int, days: int) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._days = days
        self._day = _day_of(file)
        super().__init__(file, maxBytes=file_bytes, backupCount=files, encoding="utf-8")
        self._drop_old()

    def shouldRollover(self, record: logging.LogRecord) -> int:  # noqa: N802 - the library's name
        """Whether the record belongs in a new file."""
        return int(datetime.now(UTC).date() != self._day or super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        """Begin a new file."""
        super().doRollover()
        self._day = datetime.now(UTC).date()
        self._drop_old()

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_owners_only)

    def _drop_old(self) -> None:
        file = Path(self.baseFilename)
        for one in file.parent.glob(f"{file.name}.*"):
            with suppress(OSError):
                if time.time() - one.stat().st_mtime > self._days * _DAY_S:
                    one.unlink()


class _Json(logging.Formatter):
    """A record as an object on one line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "part": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class _Text(logging.Formatter):
    """A record as a line of text; what peers call themselves can neither end it nor steer a terminal."""

    def __init__(self, process: str) -> None:
        super().__init__(_FORMAT.format(process=process))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Write it, control characters as escapes."""
        line = super().formatMessage(record)
        if line.isprintable():
            return line
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


def _file(settings: Settings, process: str) -> RotatingFile:
    known = settings.log
    return RotatingFile(
        settings.data_dir / _FOLDER / f"{process}.log", known.file_mib << 20, known.files, known.days
    )


def _use(handler: logging.Handler, level: str) -> None:
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def _day_of(file: Path) -> date:
    """When a file was last written; today if there is none."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
    except OSError:
        return datetime.now(UTC).date()


def _owners_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
