"""Who may ask over HTTP, and what browsers may do with the answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from config.exposure import findings
from config.load import load_settings

Factory = Callable[..., Any]
TOKEN, OTHER = "0123456789abcdef-first", "fedcba9876543210-second"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PROTECTED = (
    "/status",
    "/studies/1.2.3/similar",
    "/dicomweb/studies",
    "/similar/1.2.3/studies",
    "/jobs/" + "0" * 32,
)


@pytest.fixture(scope="module")
def guarded(start_shared_node: Factory) -> str:
    """Address of a node that has tokens."""
    node = start_shared_node("guarded", PACSIMILE_HTTP_TOKENS=f"{TOKEN} {OTHER}")
    return f"http://127.0.0.1:{node.ports['http']}"


@pytest.fixture(scope="module")
def open_node(start_shared_node: Factory) -> str:
    """Address of a node that has none, on this machine only."""
    return f"http://127.0.0.1:{start_shared_node('open').ports['http']}"


@pytest.mark.parametrize("path", PROTECTED)
def test_nothing_is_told_without_a_token(guarded: str, path: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = requests.get(guarded + path, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for token in (TOKEN, OTHER):
        answer = requests.get(guarded + path, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert answer.status_code in {200, 404}


def test_changes_need_a_token(guarded: str) -> None:
    for method, path in (("DELETE", "/studies/1.2.3"), ("POST", "/studies/1.2.3/report"), ("POST", "/similar")):
        assert requests.request(method, guarded + path, timeout=60).status_code == 401
    assert requests.delete(f"{guarded}/studies/1.2.3", headers=BEARER, timeout=60).status_code == 404


def test_health_is_open_without_details(guarded: str, wait_for: Factory) -> None:
    assert requests.get(f"{guarded}/health", timeout=60).json().get("encoder_id") is None
    wait_for(lambda: requests.get(f"{guarded}/health", timeout=60).json()["ready"] is True, 60, "the node is ready")
    assert requests.get(f"{guarded}/health", headers=BEARER, timeout=60).json()["encoder_id"]


def test_a_browser_logs_in_and_out(guarded: str) -> None:
    page = {"Accept": "text/html,application/xhtml+xml"}
    asked = requests.get(f"{guarded}/status?a=b", headers=page, timeout=60, allow_redirects=False)
    assert (asked.status_code, asked.headers["Location"]) == (303, "/login?next=%2Fstatus%3Fa%3Db")
    with requests.Session() as browser:
        form = f"{guarded}/login?next=%2Fstatus%3Fa%3Db"
        assert "password" in browser.get(form, timeout=60).text
        wrong = browser.post(form, data={"token": "wrong-wrong-wrong-wrong"}, timeout=60)
        assert (wrong.status_code, list(browser.cookies)) == (401, [])
        right = browser.post(form, data={"token": TOKEN}, timeout=60, allow_redirects=False)
        assert (right.status_code, right.headers["Location"]) == (303, "/status?a=b")
        cookie = right.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert browser.get(f"{guarded}/status", timeout=60).status_code == 200
        kept = browser.cookies.copy()
        browser.post(f"{guarded}/logout", timeout=60)
        assert browser.get(f"{guarded}/status", timeout=60).status_code == 401
        browser.cookies.update(kept)  # whoever has copied it has nothing
        assert browser.get(f"{guarded}/status", timeout=60).status_code == 401


@pytest.mark.parametrize("target", ["https://example.org/", "//example.org", "/\\example.org", "javascript:x"])
def test_the_login_leads_nowhere_else(guarded: str, target: str) -> None:
    answer = requests.post(
        f"{guarded}/login", params={"next": target}, data={"token": TOKEN}, timeout=60, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


@pytest.mark.parametrize("path", ["/health", "/status", "/nowhere", "/login", "/openapi.json"])
def test_every_answer_says_what_browsers_may_do(open_node: str, path: str) -> None:
    headers = requests.get(open_node + path, timeout=60).headers
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"]


def test_other_sites_change_nothing_and_other_names_read_nothing(open_node: str) -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    answer = requests.post(f"{open_node}/studies/1.2.3/report", headers=cross, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (403, "other-site")
    own = requests.post(f"{open_node}/studies/1.2.3/report", headers={"Sec-Fetch-Site": "same-origin"}, timeout=60)
    assert own.status_code == 404
    rebound = requests.get(f"{open_node}/status", headers={"Host": "example.org"}, timeout=60)
    assert (rebound.status_code, rebound.json()["code"]) == (403, "other-host")


def test_a_node_does_not_listen_to_the_network_without_token_and_tls(pacsimile: Factory, tmp_path: Path) -> None:
    arguments = ("serve", "--data-dir", tmp_path / "data", "--http-port", 0, "--dicom-port", 0, "--bundle", "tiny")
    for command in (arguments, ("config", "check")):
        beyond = {"PACSIMILE_HTTP_HOST": "0.0.0.0", "PACSIMILE_BUNDLE": "tiny"}
        done = pacsimile(*command, variables=beyond)
        assert done.status != 0
        for way_out in ("PACSIMILE_HTTP_TOKENS", "http.tls.certificate_file", "http.plain_beyond_loopback"):
            assert way_out in done.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "node.example.org", "localhost.example.org", ""])
def test_only_loopback_needs_no_token(host: str) -> None:
    def findings_about(host: str, **more: object) -> list[str]:
        changed = {f"http.{name}": value for name, value in more.items()}
        return [one for one in findings(load_settings(overrides={"http.host": host, **changed})) if "http" in one]

    assert len(findings_about(host)) == 2
    assert len(findings_about(host, tokens=[TOKEN])) == 1
    assert findings_about(host, tokens=[TOKEN], plain_beyond_loopback=True) == []
    assert findings_about(host, tokens=[TOKEN], **{"tls.certificate_file": "cert.pem"}) == []
    for here in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert findings_about(here) == []


def test_tokens_are_not_shown(pacsimile: Factory) -> None:
    tokens = {"PACSIMILE_HTTP_TOKENS": TOKEN, "PACSIMILE_BUNDLE": "tiny"}
    done = pacsimile("config", "check", "--json", variables=tokens)
    assert done.status == 0, done.err
    assert TOKEN not in done.out
    short = pacsimile("config", "check", variables={**tokens, "PACSIMILE_HTTP_TOKENS": "too-short"})
    assert short.status != 0
    assert "http.tokens" in short.err
    assert "too-short" not in short.err
