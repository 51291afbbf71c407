"""The HTTP face alone: how much may be asked, and TLS."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI

from config.errors import ConfigError
from config.load import load_settings
from node.web.limits import RateLimit
from node.web.server import HttpServer

_SERVE = """
import json, sys
from fastapi import FastAPI
from config.load import load_settings
from node.web.server import HttpServer
server = HttpServer(load_settings(overrides=json.loads(sys.argv[1])).http, FastAPI())
server.start()
print(server.bound_port, flush=True)
sys.stdin.read()
server.stop()
"""


def test_a_bucket_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("node.web.limits.time.monotonic", lambda: now[0])
    limit = RateLimit(60)
    assert [limit.take("a") for _ in range(60)] == [0.0] * 60
    assert limit.take("a") == pytest.approx(1.0)
    assert limit.take("b") == 0.0
    now[0] += 2.5
    assert limit.wait_s("a") == 0.0
    assert [limit.take("a") > 0 for _ in range(4)] == [False, False, True, True]
    now[0] += 3600
    assert sum(limit.take("a") == 0 for _ in range(100)) == 60


def test_https(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
               "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    keys = {"http.port": 0, "http.tls.certificate_file": str(certificate), "http.tls.key_file": str(key)}
    command = [sys.executable, "-c", _SERVE, json.dumps(keys)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = f"localhost:{int(server.stdout.readline())}"
        for version, is_taken in (("-tls1_1", False), ("-tls1_2", True)):
            asked = ["openssl", "s_client", "-connect", address, version, "-cipher", "ALL:@SECLEVEL=0"]
            done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
            assert (done.returncode == 0) is is_taken, version
        answer = requests.get(f"https://{address}/openapi.json", verify=str(certificate), timeout=60)
        assert answer.status_code == 200
        assert answer.headers["Strict-Transport-Security"]
    assert server.returncode == 0
    certificate.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"http\.tls"):
        HttpServer(load_settings(overrides=keys).http, FastAPI())
