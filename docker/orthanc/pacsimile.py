"""Orthanc's side of Pacsimile: a script for Orthanc's Python plugin, a thin client of the node's HTTP API.

It needs nothing but Python's own library. Its settings are the section `Pacsimile` of Orthanc's configuration:

=================  ====================================================================================
Url                address of the node's HTTP face
Token, TokenFile   one of the node's `http.tokens`, or a file that holds it
CaFile             certificates (PEM) that an https address is verified with
TimeoutSeconds     30 by default
SendStableTo       a name of `DicomModalities`: studies that became stable are sent there by C-STORE
AnswerFind         true: C-FIND at the called AE title `SimilarAet` lists similar studies; docs/orthanc.md
SimilarAet         SIMILAR by default
=================  ====================================================================================
"""

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

import orthanc  # type: ignore[import-not-found]  # there only within Orthanc

SETTINGS = json.loads(orthanc.GetConfiguration()).get("Pacsimile", {})
SIMILAR_AET = SETTINGS.get("SimilarAet", "SIMILAR")
PLURALS = {"PATIENT": "patients", "STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}
PARENTS = {"series": ("ParentStudy", "studies"), "instances": ("ParentSeries", "series")}


class NodeError(Exception):
    """The node does not answer, or not as was asked."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the node answered {status}")
        self.status = status
        self.body = body


class NoRedirect(HTTPRedirectHandler):
    """The token goes to the address of the settings and to no other."""

    def redirect_request(self, *_: object) -> None:
        """Do not follow."""


def make_opener() -> Any:  # noqa: ANN401 - the library's class has no useful type here
    """Make what asks the node: no proxies, no redirects, certificates verified."""
    context = ssl.create_default_context(cafile=SETTINGS.get("CaFile") or None)
    return build_opener(ProxyHandler({}), NoRedirect(), HTTPSHandler(context=context))


def token() -> str:
    """Give the token, read anew each time so that it can be changed without a restart."""
    if SETTINGS.get("TokenFile"):
        return Path(SETTINGS["TokenFile"]).read_text(encoding="utf-8").strip()
    return str(SETTINGS.get("Token", ""))


OPENER = make_opener()


def ask_node(path: str, parameters: Any, accept: str = "application/json") -> Any:  # noqa: ANN401 - any JSON
    """GET a path of the node's HTTP API.

    Raises
    ------
    NodeError
        With the status and the body that the node answered; 502 where it does not answer.
    """
    url = f"{SETTINGS['Url'].rstrip('/')}{path}?{urlencode(parameters)}"
    if not url.startswith(("http://", "https://")):
        raise NodeError(500, b"Pacsimile.Url: expected an http or https address")
    headers = {"Accept": accept, "User-Agent": "Orthanc"}
    if secret := token():
        headers["Authorization"] = f"Bearer {secret}"
    try:
        with OPENER.open(Request(url, headers=headers), timeout=SETTINGS.get("TimeoutSeconds", 30)) as answer:  # noqa: S310
            return json.load(answer) if answer.status == 200 else []
    except HTTPError as error:
        with error:
            raise NodeError(error.code, error.read()) from None
    except (URLError, OSError, ValueError) as error:
        orthanc.LogWarning(f"Pacsimile does not answer: {type(error).__name__}")
        raise NodeError(502, b"the node does not answer") from None


def answer_similar(output: Any, uid_name: str, plural: str, request: Any) -> None:  # noqa: ANN401 - Orthanc's
    """Answer a GET for what is similar to a study or series of Orthanc with what the node says."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    try:
        resource = json.loads(orthanc.RestApiGet(f"/{plural}/{request['groups'][0]}"))
    except orthanc.OrthancException:
        output.SendHttpStatusCode(404)
        return
    uid = resource["MainDicomTags"].get(uid_name, "")
    try:
        answer = ask_node(f"/{plural}/{quote(uid, safe='')}/similar", request.get("get", {}))
    except NodeError as error:
        send_problem(output, error)
        return
    for hit in answer["hits"]:
        hit["orthanc_id"] = orthanc.LookupStudy(hit["study_instance_uid"]) or None
    output.AnswerBuffer(json.dumps(answer), "application/json")


def send_problem(output: Any, error: NodeError) -> None:  # noqa: ANN401 - Orthanc's
    """Pass on what the node says of a request that it cannot answer."""
    try:
        output.SendHttpStatus(error.status, error.body.decode(errors="replace"), len(error.body))
    except TypeError:  # later versions of the plugin count for themselves
        output.SendHttpStatus(error.status, error.body)


def similar_to_study(output: Any, _uri: str, **request: Any) -> None:  # noqa: ANN401 - Orthanc's
    """``GET /studies/{id}/similar``; parameters go on to the node."""
    answer_similar(output, "StudyInstanceUID", "studies", request)


def similar_to_series(output: Any, _uri: str, **request: Any) -> None:  # noqa: ANN401 - Orthanc's
    """``GET /series/{id}/similar``; parameters go on to the node."""
    answer_similar(output, "SeriesInstanceUID", "series", request)


def on_change(change: Any, _level: Any, resource: str) -> None:  # noqa: ANN401 - Orthanc's
    """Send a study that became stable to the node; the job is Orthanc's, which tries again where it is set to."""
    if change == orthanc.ChangeType.STABLE_STUDY:
        job = {"Resources": [resource], "Synchronous": False, "Permissive": True}
        orthanc.RestApiPost(f"/modalities/{SETTINGS['SendStableTo']}/store", json.dumps(job))


def on_find(answers: Any, query: Any, _issuer: str, called: str) -> None:  # noqa: ANN401 - Orthanc's
    """Answer a C-FIND: similar studies at the title for that, else what Orthanc has."""
    keys = {
        query.GetFindQueryTagName(number): value_of(query, number) for number in range(query.GetFindQuerySize())
    }
    level = keys.pop("QueryRetrieveLevel", "STUDY")
    found = similar_studies(keys) if called == SIMILAR_AET else own_resources(level, keys)
    for one in found:
        row = {name: one.get(name, "") for name in keys} | {"QueryRetrieveLevel": level}
        tags = json.dumps(row | {"SpecificCharacterSet": "ISO_IR 192"})
        answers.FindAddAnswer(orthanc.CreateDicom(tags, None, orthanc.CreateDicomFlags.NONE))


def value_of(query: Any, number: int) -> str:  # noqa: ANN401 - Orthanc's
    """Value of a key; where it has none Orthanc has no value for it either."""
    try:
        return str(query.GetFindQueryValue(number)).strip(" \0")
    except orthanc.OrthancException:
        return ""


def similar_studies(keys: Any) -> list[dict[str, str]]:  # noqa: ANN401 - keyword to value
    """Ask the node for studies like the one that the keys name; the other keys filter."""
    others = dict(keys)
    uid, accession = others.pop("StudyInstanceUID", ""), others.pop("AccessionNumber", "")
    if not uid and accession:
        query = {"Level": "Study", "Query": {"AccessionNumber": accession}, "Expand": True, "CaseSensitive": True}
        named = json.loads(orthanc.RestApiPost("/tools/find", json.dumps(query)))
        uid = named[0]["MainDicomTags"]["StudyInstanceUID"] if len(named) == 1 else ""
    if not uid or "\\" in uid:
        raise NodeError(400, b"expected one Study Instance UID, or the Accession Number of one study")
    parameters = [(name, value) for name, value in others.items() if value]
    parameters += [("includefield", name) for name in keys]
    rows = ask_node(f"/similar/{quote(uid, safe='')}/studies", parameters, "application/dicom+json")
    return [{name_of(tag): text_of(element) for tag, element in row.items()} for row in rows]


def own_resources(level: str, keys: Any) -> list[dict[str, str]]:  # noqa: ANN401 - keyword to value
    """Search Orthanc, as it would have done itself if this script did not answer C-FIND."""
    plural = PLURALS[level]
    name = {"IMAGE": "Instance"}.get(level, level.capitalize())
    query = {"Level": name, "Query": {tag: value for tag, value in keys.items() if value}, "CaseSensitive": False}
    found = json.loads(orthanc.RestApiPost("/tools/find", json.dumps(query)))
    return [described(plural, one, keys) for one in found]


def described(plural: str, public_id: str, keys: Any) -> dict[str, str]:  # noqa: ANN401 - keyword to value
    """Give the wanted attributes of a resource: its own and its parents', counts, else those of one instance."""
    values: dict[str, str] = {}
    below, at = json.loads(orthanc.RestApiGet(f"/{plural}/{public_id}")), plural
    resource = below
    while True:
        values |= {**resource.get("PatientMainDicomTags", {}), **resource["MainDicomTags"], **values}
        if at not in PARENTS:
            break
        parent, at = PARENTS[at]
        resource = json.loads(orthanc.RestApiGet(f"/{at}/{resource[parent]}"))
    values |= counted(plural, public_id, keys)
    if any(name not in values for name in keys):
        instances = (
            json.loads(orthanc.RestApiGet(f"/{plural}/{public_id}/instances")) if plural != "instances" else [below]
        )
        tags = json.loads(orthanc.RestApiGet(f"/instances/{instances[0]['ID']}/tags?simplify"))
        values = {name: value for name, value in tags.items() if isinstance(value, str)} | values
    return values


def counted(plural: str, public_id: str, keys: Any) -> dict[str, str]:  # noqa: ANN401 - keyword to value
    """Give what is counted over a patient, study or series."""
    level = {"patients": "Patient", "studies": "Study", "series": "Series"}.get(plural)
    if level is None or not any(name.startswith("NumberOf") or name == "ModalitiesInStudy" for name in keys):
        return {}
    said = json.loads(orthanc.RestApiGet(f"/{plural}/{public_id}/statistics"))
    values = {
        f"NumberOf{level}Related{what}": str(said[f"Count{what}"])
        for what in ("Studies", "Series", "Instances")
        if f"Count{what}" in said
    }
    if level == "Study" and "ModalitiesInStudy" in keys:
        series = json.loads(orthanc.RestApiGet(f"/studies/{public_id}/series"))
        modalities = {one["MainDicomTags"].get("Modality", "") for one in series} - {""}
        values["ModalitiesInStudy"] = "\\".join(sorted(modalities))
    return values


def name_of(tag: str) -> str:
    """Keyword of a tag of the DICOM JSON Model; the tag itself where it has none."""
    try:
        return str(orthanc.GetTagName(int(tag[:4], 16), int(tag[4:], 16), ""))
    except orthanc.OrthancException:
        return tag


def text_of(element: Any) -> str:  # noqa: ANN401 - any JSON
    """Values of an element of the DICOM JSON Model (PS3.18 F.2) as the text of one; sequences have none."""
    values = element.get("Value", [])
    texts = [one.get("Alphabetic", "") if isinstance(one, dict) else str(one) for one in values]
    return "\\".join(texts)


if SETTINGS.get("Url"):
    orthanc.RegisterRestCallback("/studies/([^/]+)/similar", similar_to_study)
    orthanc.RegisterRestCallback("/series/([^/]+)/similar", similar_to_series)
    if SETTINGS.get("AnswerFind"):
        orthanc.RegisterFindCallback(on_find)
if SETTINGS.get("SendStableTo"):
    orthanc.RegisterOnChangeCallback(on_change)
