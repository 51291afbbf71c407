"""The OpenAPI document against a running node: made-up requests, and every answer as the document says."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydicom import dcmread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

Factory = Callable[..., Any]
EXAMPLES = 6
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass
class Served:
    """A running node, and UIDs that it holds."""

    address: str
    uids: dict[str, str]


@pytest.fixture(scope="module")
def served(start_shared_node: Factory, pacsimile: Factory, make_series: Factory) -> Served:
    node = start_shared_node("schema")
    folders = [make_series(1), make_series(2)]
    done = pacsimile("ingest", *folders, "--data-dir", node.data_dir, "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    node.wait_until_indexed()
    one = dcmread(next(folders[0].rglob("*.dcm")))
    uids = {
        "study_uid": str(one.StudyInstanceUID),
        "series_uid": str(one.SeriesInstanceUID),
        "sop_instance_uid": str(one.SOPInstanceUID),
    }
    return Served(f"http://127.0.0.1:{node.ports['http']}", uids)


def test_the_document_is_complete(served: Served) -> None:
    document = requests.get(f"{served.address}/openapi.json", timeout=60).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["tags"], (path, method)
            assert operation["summary"], (path, method)
            assert operation["description"], (path, method)
            if path != "/health":
                assert operation["security"], (path, method)
                assert "application/problem+json" in operation["responses"]["401"]["content"]
            for status, answer in operation["responses"].items():
                assert "HTTPValidationError" not in str(answer), (path, method, status)
    named = {
        "/similar",
        "/jobs/{job_id}",
        "/dicomweb/studies",
        "/similar/{study_uid}/studies",
        "/health",
        "/status",
    }
    assert named <= set(document["paths"])


def test_whatever_is_asked_the_answer_is_as_documented(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    problems: list[str] = []
    for operation in operations:
        try:
            _exercise(operation, served)
        except Exception as error:
            problems.append(f"{operation.label}: {error}")
    assert not problems, "\n\n".join(problems)


def _exercise(operation: Any, served: Served) -> None:  # noqa: ANN401 - of schemathesis
    """Ask a few times, also for what is there."""
    removes = operation.method.upper() == "DELETE"

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), held=st.booleans())
    def ask(case: Any, held: bool) -> None:  # noqa: ANN401 - of schemathesis and hypothesis
        for name in set(served.uids) & set(case.path_parameters or {}):
            if held and not removes:
                case.path_parameters[name] = served.uids[name]
        case.call_and_validate(checks=CHECKS, timeout=60)

    ask()
