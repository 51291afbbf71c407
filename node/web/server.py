"""Runs the HTTP application beside the rest of the node."""

import os
import socket
import ssl
import threading
import time

import uvicorn
from fastapi import FastAPI

from config.errors import ConfigError
from config.web import HttpSettings
from indexer.errors import Transient
from node.web.headers import SecurityHeaders

_START_S = 30.0
_DRAIN_S = 10


class HttpServer:
    """uvicorn in a thread of its own.

    Raises
    ------
    ConfigError
        The certificate cannot be used.
    """

    def __init__(self, settings: HttpSettings, app: FastAPI) -> None:
        self._settings = settings
        config = uvicorn.Config(
            SecurityHeaders(app),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_DRAIN_S,
            forwarded_allow_ips=list(settings.proxies),
            server_header=False,
            ssl_certfile=settings.tls.certificate_file or None,
            ssl_keyfile=settings.tls.key_file or None,
        )
        _load(config)
        self._server = uvicorn.Server(config)
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
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Transient(f"cannot listen for HTTP on {host}:{port} (--http-port): {reason}") from error
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


def _load(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError([f"http.tls: the certificate or its key cannot be used: {reason}"]) from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
