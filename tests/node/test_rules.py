"""Rules: which studies they are for; receivers that are away, a node that is killed meanwhile, and one delivery."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.errors import ConfigError
from config.load import load_settings
from config.model import Rule
from indexer.errors import Refused, Transient
from node.courier import post
from node.rules import StudyTraits, matches, wanted

Tool = Callable[[str], str]
Factory = Callable[..., Any]
Node = Any
"""`RunningNode` of the conftest."""
CHEST = StudyTraits(
    frozenset({"CT", "SR"}), frozenset({"CHEST"}), frozenset({"CT_SCANNER"}), "CT Thorax mit Kontrastmittel"
)


@dataclass
class Hook:
    """A web server that notes what it was told, and answers what it is set to."""

    port: int = 0
    status: int = 204
    told: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator["Hook"]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.append((dict(self.headers.items()), json.loads(body)))
                self.send_response(hook.status)
                self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=s3cret"


@contextmanager
def storescp(program: str, folder: Path, port: int) -> Iterator[None]:
    """DCMTK's receiver, as AE title PACS."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [program, "-aet", "PACS", "-od", str(folder), str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"modality": ("MR",)}, False),
        ({"modality": ("MR", "CT")}, True),
        ({"body_part": ("CHEST",), "modality": ("CT",)}, True),
        ({"body_part": ("HEAD",), "modality": ("CT",)}, False),
        ({"source_aet": ("CT_SCANNER",)}, True),
        ({"source_aet": ("OTHER",)}, False),
        ({"study_description": "*thorax*"}, True),
        ({"study_description": "ct ?horax*"}, True),
        ({"study_description": "thorax"}, False),
    ],
)
def test_every_key_of_a_rule_has_to_match(keys: dict[str, Any], expected: bool) -> None:
    rule = Rule(name="r", do="webhook", url="http://localhost/", **keys)
    assert matches(rule, CHEST) is expected


def test_one_delivery_for_each_peer() -> None:
    rules = [
        Rule(name="a", do="report", peers=("ONE", "TWO", "ONE")),
        Rule(name="b", do="report", peers=("ONE",), modality=("MR",)),
        Rule(name="c", do="webhook", url="http://localhost/"),
    ]
    assert [(one.rule, one.action, one.target) for one in wanted(rules, CHEST)] == [
        ("a", "report", "ONE"), ("a", "report", "TWO"), ("c", "webhook", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "r"\ndo = "report"', "needs peers"),
        ('name = "r"\ndo = "report"\npeers = ["PACS"]', "PACS is none"),
        ('name = "r"\ndo = "webhook"', "needs url"),
        ('name = "r"\ndo = "webhook"\nurl = "ftp://user:s3cret@host/"', "rules.url"),
        ('name = "r"\ndo = "forward"', "rules.do"),
        ('name = "r"\ndo = "webhook"\nurl = "http://h/"\nwhen = "stored"', "rules.when"),
        ('name = "r"\ndo = "webhook"\nurl = "http://h/"\n[[rules]]\nname = "r"\ndo = "webhook"\nurl = "http://i/"',
         "a name of its own"),
    ],
)  # fmt: skip
def test_rules_that_cannot_work_stop_the_start(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[[rules]]\n" + text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(file)
    assert "s3cret" not in str(caught.value)


def test_nothing_by_default() -> None:
    assert load_settings().rules == ()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (204, None),
        (302, Refused),
        (404, Refused),
        (408, Transient),
        (429, Transient),
        (503, Transient),
    ],
)
def test_what_a_web_hook_answers_decides(status: int, error: type[Exception] | None) -> None:
    with Hook(status=status).listening() as hook:
        if error is None:
            post(hook.url, {"delivery": "1"}, 5.0)
        else:
            with pytest.raises(error, match=str(status)) as caught:
                post(hook.url, {"delivery": "1"}, 5.0)
            assert "s3cret" not in str(caught.value)
    assert len(hook.told) == 1
    with pytest.raises(Transient, match="does not answer") as gone:
        post(hook.url, {"delivery": "1"}, 5.0)
    assert "s3cret" not in str(gone.value)


def write_config(file: Path, hook: Hook, port: int) -> None:
    file.write_text(
        f"""
[[peers]]
aet = "PACS"
host = "127.0.0.1"
port = {port}
[[rules]]
name = "tell"
do = "webhook"
url = "{hook.url}"
results = 5
[[rules]]
name = "file"
do = "report"
peers = ["PACS"]
modality = ["CT"]
[[rules]]
name = "never"
do = "webhook"
url = "{hook.url}"
source_aet = ["SOMEBODY"]
[delivery]
study_quiet_s = 2.0
first_retry_s = 0.5
longest_retry_s = 1.0
"""
    )


def deliveries(node: Node) -> dict[str, int]:
    known: dict[str, int] = node.get("/status")["deliveries"]
    return known


@pytest.mark.slow
def test_receivers_that_are_away_and_a_node_that_is_killed(
    start_node: Factory,
    send: Factory,
    make_series: Factory,
    wait_for: Factory,
    tool: Tool,
    tmp_path: Path,
    find_port: Callable[[], int],
    pacsimile: Factory,
) -> None:
    """Two series of one study: both receivers are told once, though they were away and the node died meanwhile."""
    hook, port = Hook(find_port()), find_port()
    config = tmp_path / "node.toml"
    write_config(config, hook, port)
    variables = {"PACSIMILE_CONFIG": str(config)}
    program, received = tool("storescp"), tmp_path / "received"
    node = start_node(**variables)
    send(node.dicom_port, make_series(3))
    node.wait_until_indexed()
    wait_for(lambda: deliveries(node) == {"WAITING": 2}, 30, "the first study's deliveries")
    first, second = make_series(2, series_number=1), make_series(2, series_number=2)
    send(node.dicom_port, first, second)
    node.wait_until_indexed()
    wait_for(lambda: deliveries(node) == {"WAITING": 4}, 30, "one delivery a study and rule")
    wait_for(lambda: len(node.get("/status")["delivery_problems"]) == 4, 30, "failed tries")
    shown = pacsimile("status", "--data-dir", node.data_dir)
    assert "Deliveries that did not arrive" in shown.out
    assert "s3cret" not in shown.out + node.log
    node.stop(signal.SIGKILL)

    node = start_node(**variables)
    study = str(dcmread(next(first.rglob("*.dcm"))).StudyInstanceUID)
    with hook.listening(), storescp(program, received, port):
        hook.status = 503
        wait_for(lambda: len(hook.told) >= 2, 360, "tries of the web hook")
        hook.status = 204
        wait_for(lambda: deliveries(node) == {"DONE": 4}, 360, "all delivered")
        told = len(hook.told)
        node.stop()
        node = start_node(**variables)
        time.sleep(3.0)
        assert deliveries(node) == {"DONE": 4}
        assert len(hook.told) == told
    check_told(hook, study)
    check_reports(received, study)


def check_told(hook: Hook, study: str) -> None:
    """Every try of a delivery said the same, under the same key, and nothing of any patient."""
    by_study: dict[str, list[tuple[str, str]]] = {}
    for headers, payload in hook.told:
        body = json.dumps(payload, sort_keys=True)
        by_study.setdefault(payload["study_instance_uid"], []).append((headers["Idempotency-Key"], body))
        assert "Demo" not in body
        assert "DEMO" not in body
        assert payload["rule"] == "tell"
    assert len(by_study) == 2
    assert all(len(set(tries)) == 1 for tries in by_study.values())
    answer = json.loads(by_study[study][0][1])
    assert [hit["rank"] for hit in answer["hits"]] == [1]
    assert answer["hits"][0]["study_instance_uid"] in by_study
    assert answer["hits"][0]["relation"] in ("ANALOGUE", "DUPLICATE")


def check_reports(folder: Path, study: str) -> None:
    reports = [dcmread(file) for file in folder.iterdir()]
    assert len(reports) == 2
    assert {report.Modality for report in reports} == {"SR"}
    assert study in {report.StudyInstanceUID for report in reports}


@pytest.mark.slow
def test_what_a_receiver_refuses_is_given_up_and_new_images_are_told_again(
    start_node: Factory,
    send: Factory,
    make_series: Factory,
    wait_for: Factory,
    tmp_path: Path,
    find_port: Callable[[], int],
) -> None:
    with Hook(status=404).listening() as hook:
        config = tmp_path / "node.toml"
        write_config(config, hook, find_port())
        text = config.read_text()
        config.write_text(text[: text.index('[[rules]]\nname = "file"')] + text[text.index("[delivery]") :])
        node = start_node(PACSIMILE_CONFIG=str(config))
        send(node.dicom_port, make_series(2))
        node.wait_until_indexed()
        wait_for(lambda: deliveries(node) == {"FAILED": 1}, 60, "the refusal")
        (problem,) = node.get("/status")["delivery_problems"]
        assert (problem["rule"], problem["note"]) == ("tell", "the web hook answered 404")
        hook.status = 200
        send(node.dicom_port, make_series(2, series_number=2))
        node.wait_until_indexed()
        wait_for(lambda: deliveries(node) == {"FAILED": 1, "DONE": 1}, 60, "the new revision")
    revisions = [payload["revision"] for _, payload in hook.told]
    assert revisions == sorted(set(revisions))
    assert len(revisions) == 2
