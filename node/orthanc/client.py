"""Orthanc's REST API as far as the node needs it: one function for each route.

It works with Orthanc 1.9.4 (`/tools/bulk-content`) and newer; what came later is used only where `/system` says
that it is there.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.util import Retry

from config.errors import ConfigError
from config.model import OrthancSettings
from indexer.errors import NotFound, Refused, Transient
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

_PASSING = frozenset({408, 425, 429})
"""HTTP statuses below 500 that ask to try again later (RFC 9110, 8470, 6585)."""
_FORBIDDEN = frozenset({401, 403})
_REPEATED = (429, 502, 503, 504)
_FIRST_PAUSE_S = 0.5
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class System:
    """What an Orthanc says of itself.

    Attributes
    ----------
    aet : str
        Under which it sends.
    has_labels : bool
        Whether resources can have labels: from 1.12 on, if its database can.
    """

    version: str
    api_version: int
    aet: str
    has_labels: bool


@dataclass(frozen=True)
class Change:
    """An entry of the list of changes; `sequence` is its `Seq`."""

    sequence: int
    kind: str
    resource_type: str
    public_id: str
    date: str

    @property
    def mark(self) -> str:
        """What tells this change from that of another database with the same number."""
        return f"{self.kind} {self.public_id} {self.date}"


@dataclass(frozen=True)
class Changes:
    """A page of the list of changes; `last` is the number of its last one, or of the newest where it is empty."""

    entries: tuple[Change, ...]
    is_last_page: bool
    last: int


@dataclass(frozen=True)
class RemoteStudy:
    """A study as Orthanc knows it; without a Study Instance UID if its instances have none."""

    public_id: str
    study_instance_uid: StudyInstanceUID | None
    is_stable: bool
    last_update: str


@dataclass(frozen=True)
class RemoteInstance:
    """An instance as Orthanc knows it."""

    public_id: str
    sop_instance_uid: SOPInstanceUID
    size_bytes: int


class OrthancClient:
    """A client of one Orthanc; safe to use from as many threads as `settings.parallel` says.

    Redirects are not followed, and proxies, netrc and certificates of the environment not used: what the settings
    name is spoken to, as they say, and nobody else is told the password.

    Raises
    ------
    ConfigError
        A file that the settings name cannot be read.

    Notes
    -----
    Every function raises `Transient` where Orthanc does not answer, cannot just now or forbids it, `NotFound` where
    it does not have the resource, and `Refused` where it does not want the request.
    """

    def __init__(self, settings: OrthancSettings) -> None:
        self._url = settings.url.rstrip("/")
        self._timeout_s = settings.timeout_s
        self._session = _session(settings)

    @property
    def server(self) -> str:
        """Tells this Orthanc from others: 16 characters."""
        return hashlib.sha256(self._url.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def system(self) -> System:
        """``GET /system``."""
        said = self._json("GET", "/system", dict)
        if "ApiVersion" not in said:
            raise Transient("expected ApiVersion in /system, got none: is it an Orthanc?")
        return System(
            version=str(said.get("Version", "")),
            api_version=int(said.get("ApiVersion", 0)),
            aet=str(said.get("DicomAet", "")),
            has_labels=bool(said.get("HasLabels", False)),
        )

    def changes(self, since: int, limit: int) -> Changes:
        """``GET /changes?since=…&limit=…``: those numbered higher than `since`."""
        return _changes(self._json("GET", "/changes", dict, params={"since": since, "limit": limit}))

    def last_change(self) -> Changes:
        """``GET /changes?last``: the newest one alone; none where the list was cleared."""
        return _changes(self._json("GET", "/changes?last", dict))

    def study_ids(self) -> list[str]:
        """``GET /studies``."""
        return [str(one) for one in self._json("GET", "/studies", list)]

    def studies_of(self, public_ids: Sequence[str]) -> list[RemoteStudy]:
        """``POST /tools/bulk-content``: the studies of some studies, series, instances; without those it lacks."""
        wanted = {"Resources": list(public_ids), "Level": "Study", "Metadata": False}
        return [_study(one) for one in self._json("POST", "/tools/bulk-content", list, json=wanted)]

    def study(self, public_id: str) -> RemoteStudy:
        """``GET /studies/{id}``."""
        return _study(self._json("GET", f"/studies/{public_id}", dict))

    def instances_of(self, study_id: str) -> list[RemoteInstance]:
        """``GET /studies/{id}/instances``."""
        listed = self._json("GET", f"/studies/{study_id}/instances", list)
        return [
            RemoteInstance(
                str(one["ID"]),
                SOPInstanceUID(str(one["MainDicomTags"].get("SOPInstanceUID", ""))),
                int(one.get("FileSize", 0)),
            )
            for one in listed
        ]

    def series_uids_of(self, study_id: str) -> set[SeriesInstanceUID]:
        """``GET /studies/{id}/series``: their Series Instance UIDs."""
        listed = self._json("GET", f"/studies/{study_id}/series", list)
        uids = (one["MainDicomTags"].get("SeriesInstanceUID") for one in listed)
        return {SeriesInstanceUID(str(uid)) for uid in uids if uid}

    def file_of(self, instance_id: str, limit_bytes: int) -> bytes:
        """``GET /instances/{id}/file``; `Refused` if it is longer than `limit_bytes`."""
        content = bytearray()
        as_it_is = {"Accept-Encoding": "identity"}
        with self._answer("GET", f"/instances/{instance_id}/file", stream=True, headers=as_it_is) as answer:
            for piece in answer.iter_content(_PIECE_BYTES):
                content += piece
                if len(content) > limit_bytes:
                    raise Refused(f"the instance is larger than {limit_bytes >> 20} MiB")
        return bytes(content)

    def store(self, file: bytes) -> str:
        """``POST /instances``: give it a DICOM file, which it may have already; returns the study it is in."""
        kind = {"Content-Type": "application/dicom"}
        said = self._json("POST", "/instances", dict, data=file, headers=kind)
        if said.get("Status") not in ("Success", "AlreadyStored"):
            raise Refused(f"Orthanc did not store it: expected Success or AlreadyStored, got {said.get('Status')}")
        return str(said.get("ParentStudy", ""))

    def add_label(self, study_id: str, label: str) -> None:
        """``PUT /studies/{id}/labels/{label}``; only where `System.has_labels`."""
        with self._answer("PUT", f"/studies/{study_id}/labels/{label}"):
            pass

    def _json(self, method: str, path: str, kind: type, **more: Any) -> Any:  # noqa: ANN401 - any JSON
        with self._answer(method, path, **more) as answer:
            try:
                said = answer.json()
            except ValueError:
                said = None
        if not isinstance(said, kind):
            raise Transient(f"expected JSON from Orthanc ({method} {path}), got something else: is it an Orthanc?")
        return said

    @contextmanager
    def _answer(self, method: str, path: str, **more: Any) -> Iterator[requests.Response]:  # noqa: ANN401
        try:
            with self._session.request(
                method, self._url + path, timeout=self._timeout_s, allow_redirects=False, **more
            ) as answer:
                _judge(answer.status_code, f"{method} {path}")
                yield answer
        except requests.RequestException as error:  # its text may repeat what was sent
            raise Transient(f"Orthanc does not answer ({method} {path}): {type(error).__name__}") from None


def _session(settings: OrthancSettings) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = "Pacsimile"
    again = Retry(
        total=settings.retries,
        backoff_factor=_FIRST_PAUSE_S,
        status_forcelist=_REPEATED,
        allowed_methods=None,  # every request can be repeated: Orthanc stores an instance once
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=settings.parallel + 1, max_retries=again))
    if settings.user:
        password = settings.password.get_secret_value() or _read("password_file", settings.password_file)
        session.auth = HTTPBasicAuth(settings.user.encode(), password.encode())
    token = settings.token.get_secret_value() or _read("token_file", settings.token_file)
    if token:
        session.headers[settings.token_header] = token.encode()
    if settings.ca_file:
        _read("ca_file", settings.ca_file)
        session.verify = settings.ca_file
    return session


def _read(key: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"orthanc.{key}: {file} cannot be read: {type(error).__name__}"]) from None


def _judge(status: int, what: str) -> None:
    """Whether to go on, try again later, or not; a wrong password is mended in one of both places, so later."""
    if status == 404:
        raise NotFound(f"Orthanc does not have it ({what})")
    if status in _FORBIDDEN:
        raise Transient(f"Orthanc answered {status} ({what}): expected user and password, or token, to be right")
    if status >= 500 or status in _PASSING:
        raise Transient(f"Orthanc answered {status} ({what})")
    if not 200 <= status < 300:
        raise Refused(f"Orthanc answered {status} ({what})")


def _changes(said: dict[str, Any]) -> Changes:
    entries = tuple(
        Change(int(one["Seq"]), one["ChangeType"], one["ResourceType"], one["ID"], one["Date"])
        for one in said["Changes"]
    )
    return Changes(entries, bool(said["Done"]), int(said["Last"]))


def _study(said: dict[str, Any]) -> RemoteStudy:
    uid = said["MainDicomTags"].get("StudyInstanceUID")
    return RemoteStudy(
        public_id=str(said["ID"]),
        study_instance_uid=StudyInstanceUID(str(uid)) if uid else None,
        is_stable=bool(said.get("IsStable", True)),
        last_update=str(said.get("LastUpdate", "")),
    )
