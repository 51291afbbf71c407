"""Tokens that allow less: scopes, an end, a cohort; and what the audit trail says of all that."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydicom import Dataset, dcmread

from node.web.pages import routes

Factory = Callable[..., Any]
etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")
TOKENS = {name: f"{name}-" + "0123456789abcdef" for name in ("search", "read", "store", "monitor", "admin")}
TOKENS |= {"former": "former-0123456789abcdef", "project": "project-0123456789abcdef"}
SCOPES = {"project": ["SEARCH", "READ"], "former": ["ADMIN"]}
_KEYS = {"study_uid": "StudyInstanceUID", "series_uid": "SeriesInstanceUID", "sop_instance_uid": "SOPInstanceUID"}


@dataclass
class Guarded:
    """A node with a token for each scope, and one for a cohort: all patients of its archive but one."""

    address: str
    data_dir: Path
    seen: Dataset
    hidden: Dataset
    hidden_uids: set[str]
    seen_studies: set[str]

    def ask(self, path: str, token: str = "", method: str = "GET", **more: Any) -> requests.Response:  # noqa: ANN401
        headers = {"Authorization": f"Bearer {TOKENS.get(token, token)}"} if token else {}
        headers |= more.pop("headers", {})
        return requests.request(method, self.address + path, headers=headers, timeout=120, **more)

    def trail(self) -> list[Any]:
        return [
            etree.fromstring(line) for line in (self.data_dir / "audit" / "audit.log").read_bytes().splitlines()
        ]


@pytest.fixture(scope="module")
def guarded(
    start_shared_node: Factory, pacsimile: Factory, phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Guarded:
    folder = tmp_path_factory.mktemp("guarded")
    headers = [dcmread(file, stop_before_pixels=True) for file in sorted(phantom_archive.rglob("*.dcm"))]
    patients = sorted({str(one.PatientID) for one in headers})
    hidden = [one for one in headers if one.PatientID == patients[-1]]
    seen = [one for one in headers if one.PatientID != patients[-1]]
    (folder / "token").write_text(TOKENS["read"] + "\n")
    tables: list[tuple[str, dict[str, object]]] = [("cohorts", {"name": "project", "patient_id": patients[:-1]})]
    for name, token in TOKENS.items():
        client: dict[str, object] = {"name": name, "scopes": SCOPES.get(name, [name.upper()])}
        if name == "read":
            client["file"] = str(folder / "token")
        else:
            client["sha256"] = hashlib.sha256(token.encode()).hexdigest()
        client |= {"cohort": "project"} if name == "project" else {}
        client |= {"expires": "2020-01-01"} if name == "former" else {}
        tables.append(("http.clients", client))
    lines = []
    for table, keys in tables:
        lines += [f"[[{table}]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    lines += ["[http]", "failures_per_minute = 10", "[audit]", "to = 'file'"]
    (folder / "node.toml").write_text("\n".join(lines))
    done = pacsimile("ingest", phantom_archive, "--data-dir", folder / "data", "--bundle", "tiny")
    assert done.status == 0, done.err
    node = start_shared_node(folder / "data", PACSIMILE_CONFIG=str(folder / "node.toml"))
    uids = {str(getattr(one, keyword)) for one in hidden for keyword in _KEYS.values()}
    studies = {str(one.StudyInstanceUID) for one in seen}
    address = f"http://127.0.0.1:{node.ports['http']}"
    return Guarded(address, node.data_dir, seen[0], hidden[0], uids | {str(hidden[0].PatientID)}, studies)


def path_of(template: str, of: Dataset) -> str:
    """A path with the UIDs of an instance."""
    values = {name: str(getattr(of, keyword)) for name, keyword in _KEYS.items()}
    values |= {"frames": "1", "frame": "1", "job_id": "0" * 32, "path": "7FE00010"}
    return re.sub(r"{(\w+)(:path)?}", lambda found: values[found[1]], template)


def routes_below(router: APIRouter) -> Iterator[APIRoute]:
    """The routes of a router and of those that are included in it."""
    for one in router.routes:
        if isinstance(one, APIRoute):
            yield one
        elif isinstance(included := getattr(one, "original_router", None), APIRouter):
            yield from routes_below(included)


def operations(guarded: Guarded) -> Iterator[tuple[str, str, set[str]]]:
    """Every route: method, path template and the scopes that it asks for."""
    for path, methods in guarded.ask("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            scopes = {one for need in operation.get("security", []) for of in need.values() for one in of}
            yield method.upper(), path, scopes


def test_every_route_but_health_needs_a_scope_and_gives_nothing_without(guarded: Guarded) -> None:
    for method, template, scopes in operations(guarded):
        if template == "/health":
            continue
        assert len(scopes) == 1, template
        path = path_of(template, guarded.seen)
        without = guarded.ask(path, method=method)
        assert (without.status_code, "error=" in without.headers["WWW-Authenticate"]) == (401, False), template
        for name in ("search", "read", "store", "monitor", "admin"):
            if name.upper() not in scopes:
                refused = guarded.ask(path, name, method)
                assert (refused.status_code, refused.json()["code"]) == (403, "insufficient-scope"), template
                assert f'scope="{next(iter(scopes))}"' in refused.headers["WWW-Authenticate"]
                assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
            elif method == "GET":
                assert guarded.ask(path, name).status_code not in {401, 403, 500}, template


def test_a_token_that_has_ended_or_was_made_up_is_no_token(guarded: Guarded) -> None:
    for token in ("former", "made-up-0123456789abcdef"):
        answer = guarded.ask("/status", token)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert guarded.ask("/health", "search").json().get("encoder_id") is None
    assert guarded.ask("/health", "monitor").json()["encoder_id"]


def test_outside_of_the_cohort_nothing_is_there_on_any_route(guarded: Guarded) -> None:
    """Routes come from the OpenAPI document and from the pages' router: none can be forgotten."""
    everything = [*operations(guarded)]
    pages = list(routes_below(routes.router))
    assert len(everything) > 20
    assert len(pages) >= 5
    everything += [(method, page.path, set()) for page in pages for method in page.methods]
    for method, template, scopes in everything:
        if template == "/health":
            continue
        answer = guarded.ask(path_of(template, guarded.hidden), "project", method)
        if scopes - {"SEARCH", "READ"} or method != "GET":
            assert answer.status_code in {202, 403, 404, 422}, template
        elif set(re.findall(r"{(\w+)", template)) & set(_KEYS):
            is_search = answer.status_code in {200, 204} and answer.text in {"", "[]"}
            assert answer.status_code == 404 or is_search, (template, answer.status_code, answer.text[:200])
        for uid in guarded.hidden_uids:
            assert uid not in answer.text, template


def test_within_the_cohort_all_is_there(guarded: Guarded) -> None:
    """Counted: every study of the cohort, and no other, whatever is asked."""
    found = guarded.ask("/dicomweb/studies", "project").json()
    assert {one["0020000D"]["Value"][0] for one in found} == guarded.seen_studies
    all_of_it = guarded.ask("/dicomweb/studies", "search").json()
    assert len(all_of_it) > len(found)
    study = str(guarded.seen.StudyInstanceUID)
    for path in (
        f"/studies/{study}/similar",
        f"/similar/{study}/studies",
        f"/studies/{study}/priors",
        f"/dicomweb/studies/{study}/metadata",
        f"/ui/studies/{study}",
        "/dicomweb/series",
        "/dicomweb/instances?limit=5000",
        "/",
    ):
        answer = guarded.ask(path, "project")
        assert answer.status_code == 200, (path, answer.text)
        assert not [uid for uid in guarded.hidden_uids if uid in answer.text], path
    hits = guarded.ask(f"/studies/{study}/similar", "project").json()["hits"]
    assert {hit["study_instance_uid"] for hit in hits} <= guarded.seen_studies
    assert hits
    pairs = product((guarded.seen, guarded.hidden), repeat=2)
    asked = [(a.SeriesInstanceUID, b.SeriesInstanceUID, a is b is guarded.seen) for a, b in pairs]
    for a, b, is_seen in asked:
        assert (guarded.ask(f"/ui/compare?a={a}&b={b}", "project").status_code == 200) is is_seen
    assert guarded.ask(path_of("/dicomweb/studies/{study_uid}", guarded.seen), "project").status_code == 200


def test_what_is_sent_along_finds_nothing_outside_and_is_the_askers_only(
    guarded: Guarded, phantom_archive: Path, wait_for: Factory
) -> None:
    series = next(one for one in phantom_archive.iterdir() if one.name == guarded.hidden.SeriesInstanceUID)
    files = [("files", file.read_bytes()) for file in series.rglob("*.dcm")]
    place = guarded.ask("/similar", "project", "POST", files=files).headers["Location"]
    assert guarded.ask(place, "search").status_code == 404

    def ended() -> Any:  # noqa: ANN401 - any JSON
        job = guarded.ask(place, "project").json()
        return job if job["state"] in {"DONE", "FAILED"} else None

    job = wait_for(ended, 120, "the job ends")
    assert job["state"] == "DONE", job
    hits = job["answer"]["hits"]
    assert {hit["study_instance_uid"] for hit in hits} == guarded.seen_studies


def test_a_body_that_is_too_long_is_refused(guarded: Guarded) -> None:
    assert guarded.ask("/login", method="POST", data=b"token=" + b"x" * (2 << 20)).status_code == 413
    pieces = (b"x" * 65536 for _ in range(40))
    assert guarded.ask("/login", method="POST", data=pieces).status_code == 413


def test_a_session_has_the_tokens_rights_and_its_cohort(guarded: Guarded) -> None:
    with requests.Session() as browser:
        answer = browser.post(f"{guarded.address}/login", data={"token": TOKENS["project"]}, timeout=60,
                              headers={"X-Forwarded-Proto": "https"}, allow_redirects=False)  # fmt: skip
        cookie = answer.headers["Set-Cookie"]
        assert "Secure" in cookie
        assert "HttpOnly" in cookie
        assert answer.headers["Strict-Transport-Security"]
        shown = {"Cookie": cookie.partition(";")[0]}
    assert guarded.ask("/ui/status", headers=shown).status_code == 403
    assert guarded.ask(f"/ui/studies/{guarded.hidden.StudyInstanceUID}", headers=shown).status_code == 404
    assert guarded.ask(f"/ui/studies/{guarded.seen.StudyInstanceUID}", headers=shown).status_code == 200
    guarded.ask("/logout", method="POST", headers=shown)
    assert guarded.ask(f"/ui/studies/{guarded.seen.StudyInstanceUID}", headers=shown).status_code == 401


def test_who_tries_many_tokens_has_to_wait(guarded: Guarded) -> None:
    elsewhere = {"X-Forwarded-For": "192.0.2.7"}
    guesses = (guarded.ask("/status", f"guessed-{number:016d}", headers=elsewhere) for number in range(100))
    last = next(one for one in guesses if one.status_code != 401)
    assert (last.status_code, last.json()["code"]) == (429, "too-many-requests")
    assert int(last.headers["Retry-After"]) >= 1
    assert last.headers["X-Content-Type-Options"] == "nosniff"
    form = requests.post(f"{guarded.address}/login", data={"token": TOKENS["admin"]}, headers=elsewhere, timeout=60)
    assert form.status_code == 429
    assert guarded.ask("/status", "monitor").status_code == 200  # from elsewhere


def test_all_of_it_is_in_the_audit_trail(guarded: Guarded) -> None:
    """Runs last: who got in, who did not, what was asked, given away and forgotten, each message valid."""
    study = str(guarded.hidden.StudyInstanceUID)
    assert guarded.ask(f"/studies/{study}", "admin", "DELETE").status_code == 200
    grammar = etree.RelaxNG(etree.parse(Path(__file__).parents[1] / "trust" / "audit-message.rng"))
    told: dict[tuple[str, str, str], list[Any]] = {}
    for message in guarded.trail():
        grammar.assertValid(message)
        event = message.find("EventIdentification")
        kind = message.find(".//EventTypeCode")
        code, outcome = event.find("EventID").get("csd-code"), event.get("EventOutcomeIndicator")
        told.setdefault((code, "" if kind is None else kind.get("csd-code"), outcome), []).append(message)
    for expected in (("110114", "110122", "0"), ("110114", "110123", "0"), ("110114", "110122", "4")):
        assert expected in told, expected
    queries = [base64.b64decode(one.find(".//ParticipantObjectQuery").text) for one in told["110112", "", "0"]]
    assert any(b"/dicomweb/instances?limit=5000" in one for one in queries)
    begun = told["110102", "", "0"]
    users = {one.get("UserID") for message in begun for one in message.iter("ActiveParticipant")}
    assert {"read", "project", "PACSIMILE"} <= users
    given = {one.get("ParticipantObjectID") for m in begun for one in m.iter("ParticipantObjectIdentification")}
    assert guarded.seen.StudyInstanceUID in given
    assert study not in given  # it was asked for, and not given
    (deleted,) = told["110105", "", "0"]
    ids = {one.get("ParticipantObjectID") for one in deleted.findall("ParticipantObjectIdentification")}
    assert ids == {study, str(guarded.hidden.PatientID)}
    for token in TOKENS.values():
        assert token not in (guarded.data_dir / "audit" / "audit.log").read_text()
