"""Senders with DCMTK's storescu, and which files they were answered success about."""

import subprocess
from pathlib import Path

SENDING, SUCCESS = "I: Sending file: ", "I: Received Store Response (Success)"


def acknowledged_in(log: str) -> set[Path]:
    """Find the files that storescu was answered success about."""
    found, sending = set(), None
    for line in log.splitlines():
        if line.startswith(SENDING):
            sending = Path(line.removeprefix(SENDING))
        elif line.startswith(SUCCESS) and sending is not None:
            found.add(sending)
    return found


class Load:
    """Senders with DCMTK's storescu, and which files they were answered success about."""

    def __init__(self, storescu: str) -> None:
        self._command = [storescu, "-v", "-aec", "PACSIMILE", "+sd", "+r", "127.0.0.1"]
        self._senders: list[subprocess.Popen[str]] = []
        self.acknowledged: set[Path] = set()

    def add(self, port: int, folder: Path) -> None:
        self._senders.append(
            subprocess.Popen(
                [*self._command, str(port), str(folder)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"TCP_NODELAY": "1"},
            )
        )  # fmt: skip

    def end(self) -> None:
        for sender in self._senders:
            self.acknowledged |= acknowledged_in(sender.communicate(timeout=120)[0])
        self._senders.clear()
