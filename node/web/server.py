"""Runs the HTTP application beside the rest of the node."""

import socket
import threading
import time

import uvicorn
from fastapi import FastAPI

from config.model import HttpSettings
from indexer.errors import Transient

_START_S = 30.0
_DRAIN_S = 10


class HttpServer:
    """uvicorn in a thread of its own."""

    def __init__(self, settings: HttpSettings, app: FastAPI) -> None:
        self._settings = settings
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_DRAIN_S
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._socket: socket.socket | None = None

    @property
    def bound_port(self) -> int:
        """The port that is listened on; 0 before the start."""
        return int(self._socket.getsockname()[1]) if self._socket else 0

    def start(self) -> None:
        """Listen and serve.

        Raises
        ------
        Transient
            The port cannot be had.
        """
        host, port = self._settings.host, self._settings.port
        try:
            self._socket = socket.create_server((host, port), family=_family(host))
        except OSError as error:
            raise Transient(f"cannot listen for HTTP on {host}:{port}: {error.strerror}") from error
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not self._server.started:
            raise Transient(f"the HTTP face did not start on {host}:{port}")

    def stop(self) -> None:
        """Finish open requests and let go of the port."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket else None)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
