"""The node's log: one line an event, on standard error, without patient data."""

import logging
import sys

from config.model import LogSettings

_FORMAT = "%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s"
_QUIET = {
    "alembic": logging.WARNING,
    "grpc": logging.CRITICAL,
    "highdicom": logging.ERROR,
    "milvus_lite": logging.ERROR,
    "pydicom": logging.ERROR,
    "pymilvus": logging.ERROR,
    "pynetdicom": logging.ERROR,
    "urllib3": logging.ERROR,
    "uvicorn": logging.WARNING,
}
"""Loggers of libraries that repeat attribute values, or say at length what we say ourselves."""


def configure(level: str, process: str = "node") -> None:
    """Send records from `level` on to standard error, with the name of the process that they come from."""
    logging.basicConfig(level=level, format=_FORMAT.format(process=process), stream=sys.stderr, force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def configure_for_command(settings: LogSettings) -> None:
    """Send only warnings to standard error, unless everything was asked for."""
    configure("DEBUG" if settings.level == "DEBUG" else "WARNING", "command")
