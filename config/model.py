"""The settings of a node, frozen, with units in their names. `defaults.toml` explains every key."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from config.access import Cohort, DicomTlsSettings, Peer, UnknownPeers
from config.section import AETitle, Port, PositiveInt, Section
from config.telling import AuditSettings, LogSettings
from config.web import HttpSettings

OptionalAETitle = Annotated[str, StringConstraints(max_length=16, pattern=r"^[!-\[\]-~]*$")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Role(StrEnum):
    """What a node does of all that a node can do."""

    RECEIVE = "receive"
    """Takes instances in: C-STORE, storage commitment, what an Orthanc has."""
    WORK = "work"
    """Embeds series."""
    QUERY = "query"
    """Answers: C-FIND, C-MOVE, C-GET, HTTP, rules; keeps the vector index."""


class DicomSettings(Section):
    """The DICOM face: one port, two called AE titles."""

    host: str
    port: Port
    aet: AETitle
    similar_aet: AETitle
    unknown_peers: UnknownPeers
    plain_beyond_loopback: bool
    max_associations: PositiveInt
    max_associations_per_host: PositiveInt
    max_waiting_connections: PositiveInt
    negotiation_timeout_s: PositiveFloat
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=16 * 1024 * 1024)]
    max_object_mib: PositiveInt
    network_timeout_s: PositiveFloat
    fast_lane: bool
    receivers: Annotated[int, Field(ge=0, le=64)]
    private_storage_sop_classes: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9.]{3,64}$")], ...]
    seed_from_standard_keys: bool
    seed_by_sending_minutes: PositiveFloat
    max_results: PositiveInt

    tls: DicomTlsSettings

    @model_validator(mode="after")
    def _tell_apart(self) -> Self:
        if self.aet == self.similar_aet:
            raise ValueError(f"aet and similar_aet must differ; both are {self.aet}")
        return self


def _bucket(url: str) -> str:
    if url and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._=-]+)*", url):
        raise ValueError("expected s3://bucket or s3://bucket/prefix")
    return url


class StorageSettings(Section):
    """What happens to received instances."""

    spool_dir: str
    object_store: Annotated[str, AfterValidator(_bucket)]
    cache_gib: PositiveFloat
    on_conflict: Literal["keep-first", "replace"]
    keep: Literal["all", "none"]
    retrieve_aet: OptionalAETitle
    release_after_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    reserve_mib: Annotated[int, Field(ge=0)]
    encryption_key_file: str

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.keep == "none") != bool(self.retrieve_aet):
            raise ValueError('keep = "none" and retrieve_aet, where the instances then are, need each other')
        return self


class FetchSettings(Section):
    """Studies that are asked about and that the node does not have."""

    source_aet: OptionalAETitle
    method: Literal["c-move", "c-get"]
    deadline_s: PositiveFloat
    keep: Literal["all", "none"]
    forget_after_minutes: PositiveFloat


class CommitmentSettings(Section):
    """Reports of storage commitment (PS3.4 annex J)."""

    same_association_after_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    first_retry_s: PositiveFloat
    longest_retry_s: PositiveFloat
    give_up_after_hours: PositiveFloat


RejectionTitle = Literal["113001", "113037", "113038", "113039"]
"""Code value (DCM) of the title of a rejection note (PS3.16 CID 7011)."""


class ForgettingSettings(Section):
    """What removes instances for good, and whether they may come again."""

    rejection_titles: tuple[RejectionTitle, ...]
    rejection_aets: tuple[AETitle, ...]
    refuse_again: tuple[Literal["REQUEST"] | RejectionTitle, ...]


class DeliverySettings(Section):
    """What rules and requests have the node tell others."""

    study_quiet_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    first_retry_s: PositiveFloat
    longest_retry_s: PositiveFloat
    give_up_after_hours: PositiveFloat


class Rule(Section):
    """What to do for a study once all of it is indexed; every key that is given has to match.

    Attributes
    ----------
    do : {"report", "webhook"}
        ``report``: file the evidence report (Comprehensive 3D SR) in the study, and send it to `peers`;
        ``webhook``: POST the UIDs of the answer to `url` as JSON.
    modality, body_part, source_aet : tuple of str
        Any of these, in any series of the study; empty: whatever it is.
    study_description : str
        With ``*`` and ``?``, upper and lower case alike; empty: whatever it is.
    results : int
        At most so many studies in the answer.
    """

    name: Annotated[str, StringConstraints(pattern=r"^\w[\w .-]{0,63}$")]
    when: Literal["indexed"] = "indexed"
    do: Literal["report", "webhook"]
    modality: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    body_part: tuple[str, ...] = ()
    source_aet: tuple[AETitle, ...] = ()
    study_description: str = ""
    results: Annotated[int, Field(ge=1, le=100)] = 20
    peers: tuple[AETitle, ...] = ()
    url: Annotated[str, StringConstraints(pattern=r"^($|https?://[^\s]+$)")] = ""
    timeout_s: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.do == "report" and (not self.peers or self.url):
            raise ValueError('do = "report" needs peers, and no url')
        if self.do == "webhook" and (not self.url or self.peers):
            raise ValueError('do = "webhook" needs url, and no peers')
        return self


class OrthancSettings(Section):
    """An Orthanc beside the node, over its REST API."""

    url: Annotated[str, StringConstraints(pattern=r"^($|https?://[^\s@?#]+$)")]
    name: OptionalAETitle
    follow: bool
    user: str
    password: SecretStr
    password_file: str
    token: SecretStr
    token_file: str
    token_header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")]
    ca_file: str
    parallel: Annotated[int, Field(ge=1, le=64)]
    poll_s: PositiveFloat
    timeout_s: PositiveFloat
    retries: Annotated[int, Field(ge=0, le=20)]
    first_retry_s: PositiveFloat
    longest_retry_s: PositiveFloat
    label: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for secret, file in (("password", self.password_file), ("token", self.token_file)):
            if file and getattr(self, secret).get_secret_value():
                raise ValueError(f"give {secret} or {secret}_file, not both")
        if bool(self.user) != bool(self.password_file or self.password.get_secret_value()):
            raise ValueError("user and password (or password_file) need each other")
        return self


class CatalogSettings(Section):
    """Where the catalog lives."""

    url: Annotated[str, StringConstraints(pattern=r"^($|[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://)")]


class IndexingSettings(Section):
    """From a settled series to embeddings."""

    quiet_time_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    lease_s: PositiveFloat
    max_attempts: PositiveInt
    memory_limit_mib: Annotated[int, Field(ge=1024)]
    stop_deadline_s: PositiveFloat
    device: Literal["auto", "cpu", "cuda"]
    engine: Literal["torch", "openvino"]
    threads: Annotated[int, Field(ge=0)]
    niceness: Annotated[int, Field(ge=0, le=19)]
    read_ahead: bool


class VectorSettings(Section):
    """The vector index."""

    kind: Literal["hnsw", "exact", "milvus"]
    milvus_uri: str
    snapshot_interval_s: PositiveFloat

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "milvus" and not self.milvus_uri:
            raise ValueError('kind = "milvus" needs milvus_uri')
        return self


class SearchSettings(Section):
    """From a query to a ranked answer."""

    candidates_per_chunk: PositiveInt
    least_similarity: Annotated[float, Field(ge=0, le=1)]


def _at_least_one(roles: tuple[Role, ...]) -> tuple[Role, ...]:
    if not roles:
        raise ValueError("expected at least one of receive, work, query")
    return roles


class Settings(Section):
    """Everything a node needs to know; made by `config.load.load_settings` and passed in."""

    data_dir: Path
    roles: Annotated[tuple[Role, ...], AfterValidator(_at_least_one)]
    bundle: str
    peers: tuple[Peer, ...]
    cohorts: tuple[Cohort, ...]
    rules: tuple[Rule, ...]
    dicom: DicomSettings
    http: HttpSettings
    storage: StorageSettings
    fetch: FetchSettings
    commitment: CommitmentSettings
    forgetting: ForgettingSettings
    delivery: DeliverySettings
    orthanc: OrthancSettings
    catalog: CatalogSettings
    indexing: IndexingSettings
    vectors: VectorSettings
    search: SearchSettings
    audit: AuditSettings
    log: LogSettings

    @model_validator(mode="after")
    def _know_peers(self) -> Self:
        known = {peer.aet for peer in self.peers if peer.host}
        wanted = {"storage.retrieve_aet": self.storage.retrieve_aet, "fetch.source_aet": self.fetch.source_aet}
        unknown = [
            f"{key} must be the aet of one of the peers; {aet} is none"
            for key, aet in wanted.items()
            if aet and aet not in known
        ]
        if self.files_to_orthanc(self.orthanc.name) and self.orthanc.name in known:
            unknown.append(f"orthanc.name must not be the aet of a peer; {self.orthanc.name} is one")
        unknown += [
            f"peers of the rule {rule.name} must be the aet of one of the peers, or orthanc.name; {aet} is none"
            for rule in self.rules
            for aet in rule.peers
            if not self.can_file_to(aet)
        ]
        if len({rule.name for rule in self.rules}) < len(self.rules):
            unknown.append("every rule must have a name of its own")
        if len({cohort.name for cohort in self.cohorts}) < len(self.cohorts):
            unknown.append("every cohort must have a name of its own")
        if len({peer.aet for peer in self.peers}) < len(self.peers):
            unknown.append("every peer must have an aet of its own")
        unknown += [
            f"the cohort of {who} must be the name of one of the cohorts; {cohort} is none"
            for who, cohort in [
                *((f"the peer {peer.aet}", peer.cohort) for peer in self.peers),
                *((f"the client {client.name}", client.cohort) for client in self.http.clients),
            ]
            if cohort and self.cohort(cohort) is None
        ]
        unknown += [
            f"the certificate of the peer {peer.aet} can be seen only where there is dicom.tls with "
            "require_client_certificate"
            for peer in self.peers
            if peer.has_certificate
            and not peer.host
            and not (self.dicom.tls.is_on and self.dicom.tls.require_client_certificate)
        ]
        unknown += [
            f"cohort of the client {one.name} must be the name of one of the cohorts; {one.cohort} is none"
            for one in self.http.clients
            if one.cohort and self.cohort(one.cohort) is None
        ]
        if unknown:
            raise ValueError("; ".join(unknown))
        return self

    @model_validator(mode="after")
    def _share(self) -> Self:
        is_spool_shared = bool(self.storage.spool_dir or self.storage.object_store)
        if set(self.roles) < set(Role) and not (self.is_shared and is_spool_shared):
            raise ValueError(
                f"roles: a node that is only {' and '.join(self.roles)} shares catalog and stored instances with "
                "others: set catalog.url (postgresql+psycopg://…) and storage.spool_dir or storage.object_store"
            )
        if self.storage.object_store and not self.is_shared:
            raise ValueError("storage.object_store needs catalog.url (postgresql+psycopg://…)")
        return self

    @model_validator(mode="after")
    def _keep_sealed(self) -> Self:
        if self.storage.encryption_key_file and self.vectors.kind == "milvus":
            raise ValueError('storage.encryption_key_file does not reach what kind = "milvus" keeps: use "hnsw"')
        return self

    def peer(self, aet: str) -> Peer | None:
        """Return the peer of an AE title that can be called, or None."""
        return next((peer for peer in self.peers if peer.aet == aet and peer.host), None)

    def cohort(self, name: str) -> Cohort | None:
        """Return the cohort of a name, or None."""
        return next((cohort for cohort in self.cohorts if cohort.name == name), None)

    def files_to_orthanc(self, aet: str) -> bool:
        """Whether a title, where reports are to go, means the Orthanc over its REST API."""
        return bool(self.orthanc.url) and aet == self.orthanc.name != ""

    def can_file_to(self, aet: str) -> bool:
        """Whether reports can go to a title: a peer's, or the Orthanc's."""
        return self.peer(aet) is not None or self.files_to_orthanc(aet)

    @property
    def catalog_url(self) -> str:
        """SQLAlchemy URL of the catalog: the configured one, else SQLite in the data folder."""
        return self.catalog.url or f"sqlite:///{self.data_dir.resolve() / 'catalog.sqlite'}"

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may use the catalog as well."""
        return self.catalog.url.startswith("postgresql")

    @property
    def spool_dir(self) -> Path:
        """Folder of the stored instances, or of copies and drafts where they are objects."""
        return Path(self.storage.spool_dir) if self.storage.spool_dir else self.data_dir / "spool"

    def has(self, role: Role) -> bool:
        """Whether this node does what a role is about."""
        return role in self.roles

    @property
    def snapshot_dir(self) -> Path:
        """Folder of the index snapshots."""
        return self.data_dir / "index"
