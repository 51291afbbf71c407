"""Who may connect, and what they see: settings that every face of the node shares."""

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from config.section import AETitle, Section

CohortName = Annotated[str, StringConstraints(pattern=r"^\w[\w .-]{0,63}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=1000)]
"""Any of these; ``*`` stands for any characters, ``?`` for one, and case counts."""


class Cohort(Section):
    """The studies that somebody may see: those that meet every condition given; at least one is given.

    A study without a value never meets a condition on it.

    Attributes
    ----------
    institution_name : tuple of str
        Of any series of the study; the others are of the study or its patient.
    clinical_trial_protocol_id : tuple of str
        Known of studies that came since the catalog keeps it.
    """

    name: CohortName
    patient_id: Patterns = ()
    issuer_of_patient_id: Patterns = ()
    accession_number: Patterns = ()
    study_instance_uid: Patterns = ()
    study_description: Patterns = ()
    clinical_trial_protocol_id: Patterns = ()
    institution_name: Patterns = ()

    @model_validator(mode="after")
    def _restrict(self) -> Self:
        if not any(value for name, value in self if name != "name"):
            raise ValueError("a cohort needs at least one condition")
        return self


class Service(StrEnum):
    """What a DICOM peer may ask the node for."""

    ECHO = "ECHO"
    STORE = "STORE"
    FIND = "FIND"
    """C-FIND at `dicom.aet`."""
    SIMILAR = "SIMILAR"
    """C-FIND at `dicom.similar_aet`."""
    MOVE = "MOVE"
    GET = "GET"
    COMMIT = "COMMIT"
    """Storage commitment."""


def _demand_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        if not re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{1,253}", value):
            raise ValueError("expected an address, a network such as 10.1.0.0/16, or the name of a host") from None
    return value


Network = Annotated[str, AfterValidator(_demand_network)]
Fingerprint = Annotated[
    str,
    BeforeValidator(lambda value: value.replace(":", "").lower() if isinstance(value, str) else value),
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
]
"""SHA-256 of a certificate in its DER encoding, in hexadecimal, with or without colons."""


class Peer(Section):
    """Another DICOM node: where it listens, from where it may call, and for what.

    Attributes
    ----------
    host, port
        Where it is called; without a host it is never called.
    tls : bool
        Whether it is called over TLS.
    networks : tuple of str
        From where it calls; without any, from `host`, or, where its certificate is told, from anywhere.
    certificate_sha256, certificate_name : str
        What its certificate has to be, or its subject's common name, or one of its DNS names; empty: any, or none.
    services : frozenset of Service
        What it may ask for.
    cohort : str
        Name of the studies that it may see; empty: all.
    """

    aet: AETitle
    host: str = ""
    port: Annotated[int, Field(gt=0, le=65535)] = 104
    tls: bool = False
    networks: tuple[Network, ...] = ()
    certificate_sha256: Fingerprint | Literal[""] = ""
    certificate_name: str = ""
    services: frozenset[Service] = frozenset(Service)
    cohort: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said of it but where it listens."""
        return self.model_fields_set <= {"aet", "host", "port", "tls"}

    @model_validator(mode="after")
    def _tell(self) -> Self:
        if not (self.host or self.networks or self.has_certificate):
            raise ValueError("a peer needs a host, networks, or a certificate by which it is known")
        return self

    @property
    def has_certificate(self) -> bool:
        """Whether it has to show a certificate of its own."""
        return bool(self.certificate_sha256 or self.certificate_name)


UnknownPeers = Literal["LOOPBACK", "ALLOW", "REFUSE"]


class DicomTlsSettings(Section):
    """TLS of the DICOM face (PEM files): what the node shows, and whom it believes."""

    certificate_file: str
    key_file: str
    key_password_file: str
    ca_file: str
    require_client_certificate: bool

    @property
    def is_on(self) -> bool:
        """Whether associations are accepted over TLS only."""
        return bool(self.certificate_file)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for key in ("key_file", "key_password_file"):
            if getattr(self, key) and not self.certificate_file:
                raise ValueError(f"{key} needs certificate_file")
        if self.is_on and self.require_client_certificate and not self.ca_file:
            raise ValueError(
                "require_client_certificate needs ca_file, the authorities that clients' certificates are of"
            )
        return self
