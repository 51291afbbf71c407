"""The log in files: how long they get, how many there are, who may read them."""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.load import load_settings
from config.model import Settings
from node import logs


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    keys = {"data_dir": str(tmp_path), "log.to": "file", "log.file_mib": 1, "log.files": 3, "log.days": 2}
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    yield load_settings(overrides=keys)
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


def test_size_number_and_readers_are_bounded(settings: Settings) -> None:
    logs.configure(settings)
    for number in range(12):
        logging.getLogger("node").info("%d %s", number, "x" * (1 << 19))
    folder = settings.data_dir / "logs"
    files = sorted(folder.iterdir())
    assert [one.name for one in files] == ["node.log", "node.log.1", "node.log.2", "node.log.3"]
    assert all(one.stat().st_size <= 1 << 20 for one in files)
    assert {one.stat().st_mode & 0o777 for one in files} == {0o600}
    assert folder.stat().st_mode & 0o077 == 0
    assert " 11 xxx" in files[0].read_text()


def test_a_new_day_is_a_new_file_and_old_ones_go(settings: Settings) -> None:
    folder = settings.data_dir / "logs"
    folder.mkdir()
    for name, days in (("node.log", 1), ("node.log.1", 3)):
        (folder / name).write_text("once\n")
        then = time.time() - days * 86_400
        os.utime(folder / name, (then, then))
    logs.configure(settings)
    assert not (folder / "node.log.1").exists()
    logging.getLogger("node").info("now")
    assert (folder / "node.log.1").read_text() == "once\n"
    assert "now" in (folder / "node.log").read_text()


def test_what_a_peer_is_called_stays_on_its_line(settings: Settings) -> None:
    logs.configure(settings)
    logging.getLogger("node").warning("refused %r and %s", "A", "EVIL\nINFO forged\x1b[2J\u2028Ä")
    (line,) = (settings.data_dir / "logs" / "node.log").read_text().splitlines()
    assert line.endswith(r"EVIL\nINFO forged\x1b[2J\u2028Ä")


def test_json_is_an_object_a_line(settings: Settings) -> None:
    logs.configure(
        settings.model_copy(update={"log": settings.log.model_copy(update={"format": "json"})}), "worker"
    )
    try:
        raise ValueError("no\nreason")
    except ValueError:
        logging.getLogger("node").exception("two\nlines é")
    (line,) = (settings.data_dir / "logs" / "worker.log").read_text().splitlines()
    told = json.loads(line)
    assert (told["level"], told["process"], told["message"]) == ("ERROR", "worker", "two\nlines é")
    assert "ValueError" in told["exception"]
