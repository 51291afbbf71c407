"""Who may associate, what for, and what they see: decided once, when an association is asked for.

Whatever serves an association gets the catalog from here, as a view of what its peer may see, and not otherwise.
"""

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from config.access import Cohort, Peer, Service
from config.exposure import is_loopback
from config.model import Role, Settings
from dicom_scp import statuses
from dicom_scp.contexts import is_known_storage
from dicom_scp.tls import PeerCertificate, shown_certificate
from indexer.catalog import Catalog, CatalogView

logger = logging.getLogger(__name__)

Association = Any
"""`pynetdicom.association.Association`, which has no types."""

_REJECTED_PERMANENTLY, _BY_SERVICE_USER, _CALLING_AE_TITLE_NOT_RECOGNIZED = 1, 1, 3
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
_USER_REJECTION, _ABSTRACT_SYNTAX_NOT_SUPPORTED = 1, 3
"""Results of presentation contexts (PS3.8 table 9-18)."""
_RESOLVED_FOR_S = 60.0
_SERVICE_OF_MODEL = {
    Verification: Service.ECHO,
    PatientRootQueryRetrieveInformationModelFind: Service.FIND,
    StudyRootQueryRetrieveInformationModelFind: Service.FIND,
    PatientRootQueryRetrieveInformationModelMove: Service.MOVE,
    StudyRootQueryRetrieveInformationModelMove: Service.MOVE,
    PatientRootQueryRetrieveInformationModelGet: Service.GET,
    StudyRootQueryRetrieveInformationModelGet: Service.GET,
    StorageCommitmentPushModel: Service.COMMIT,
}
_SERVICE_OF_REQUEST = {
    C_ECHO: Service.ECHO,
    C_STORE: Service.STORE,
    C_FIND: Service.FIND,
    C_MOVE: Service.MOVE,
    C_GET: Service.GET,
    N_ACTION: Service.COMMIT,
}


_SERVICES_OF_ROLE = {
    Role.RECEIVE: frozenset({Service.ECHO, Service.STORE, Service.COMMIT}),
    Role.QUERY: frozenset({Service.ECHO, Service.FIND, Service.SIMILAR, Service.MOVE, Service.GET}),
}


@dataclass(frozen=True)
class Admission:
    """What somebody may do who was let in.

    Attributes
    ----------
    cohort : Cohort, optional
        The studies that may be seen; None: all.
    """

    services: frozenset[Service]
    cohort: Cohort | None = None


class Gatekeeper:
    """Decides who is let in; safe to share among threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._peers = {peer.aet: peer for peer in settings.peers}
        of_roles = [_SERVICES_OF_ROLE.get(role, frozenset()) for role in settings.roles]
        self._services: frozenset[Service] = frozenset().union(*of_roles)
        self._lock = threading.Lock()
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}

    def admission(self, ae_title: str, address: str, certificate: PeerCertificate | None) -> Admission | None:
        """What a caller may do; None: nothing, the association is rejected.

        Parameters
        ----------
        certificate : PeerCertificate, optional
            What it has shown.
        """
        peer = self._peers.get(ae_title)
        if peer is not None and self._is(peer, address, certificate):
            cohort = self._settings.cohort(peer.cohort) if peer.cohort else None
            return Admission(peer.services & self._services, cohort)
        policy = self._settings.dicom.unknown_peers
        if peer is not None and not peer.is_plain:  # somebody else under its name
            return None
        if policy == "ALLOW" or (policy == "LOOPBACK" and is_loopback(_plain(address))):
            return Admission(self._services)
        return None

    def cohort_of(self, ae_title: str) -> Cohort | None:
        """What a peer may see of which no more is known than the AE title that it was let in by."""
        peer = self._peers.get(ae_title)
        return self._settings.cohort(peer.cohort) if peer is not None and peer.cohort else None

    def _is(self, peer: Peer, address: str, certificate: PeerCertificate | None) -> bool:
        if peer.has_certificate and (certificate is None or not certificate.is_of(peer)):
            return False
        if peer.networks:
            return any(self._is_within(address, network) for network in peer.networks)
        return peer.has_certificate or self._is_within(address, peer.host)

    def _is_within(self, address: str, network: str) -> bool:
        plain = _plain(address)
        try:
            return ipaddress.ip_address(plain) in ipaddress.ip_network(network)
        except ValueError:
            return plain in self._addresses(network)

    def _addresses(self, host: str) -> frozenset[str]:
        """Addresses of the name of a host, which are asked for again after a while; none if it has none."""
        with self._lock:
            until, known = self._resolved.get(host, (0.0, frozenset()))
        if time.monotonic() < until:
            return known
        try:
            found = frozenset(str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError:
            logger.warning("the host of a peer has no address now: %s", host)
            found = frozenset()
        with self._lock:
            self._resolved[host] = (time.monotonic() + _RESOLVED_FOR_S, found)
        return found


class Access:
    """What the peers of associations may do and see.

    Parameters
    ----------
    catalog : Catalog
        Of which everybody sees what the settings allow.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._gatekeeper = Gatekeeper(settings)
        self._similar_aet = settings.dicom.similar_aet
        self._catalog = catalog
        self._admitted: WeakKeyDictionary[Association, Admission] = WeakKeyDictionary()

    def view(self, association: Association) -> CatalogView:
        """What the peer of an association may see.

        Raises
        ------
        KeyError
            It was not let in.
        """
        return self._catalog.within(self._admitted[association].cohort)

    def cohort_of(self, ae_title: str) -> Cohort | None:
        """What a peer may see who is known by its AE title only, as it is not there any more."""
        return self._gatekeeper.cohort_of(ae_title)

    def requested(self, event: Any) -> None:  # noqa: ANN401 - the library has no types
        """A-ASSOCIATE-RQ: reject it, or accept contexts and serve requests of allowed services only.

        The last who hears of it: what others have arranged is wrapped.
        """
        association = event.assoc
        caller = str(association.requestor.primitive.calling_ae_title).strip()
        address = str(association.requestor.address_info.address)
        certificate = shown_certificate(association.dul.socket.socket)
        admission = self._gatekeeper.admission(caller, address, certificate)
        if admission is None:
            logger.warning("an association is rejected: %s at %s is no peer that is known", caller, address)
            _reject(association)
            return
        self._admitted[association] = admission
        if Service.STORE not in admission.services:
            association.dul.socket.close_fast_lane()
        self._offer(association, admission)
        self._guard(association, admission)

    def _service(self, service: Service, association: Association) -> Service:
        is_similarity_view = str(association.acceptor.ae_title).strip() == self._similar_aet
        return Service.SIMILAR if service is Service.FIND and is_similarity_view else service

    def _offer(self, association: Association, admission: Admission) -> None:
        """Leave out the contexts of services that are not allowed; the answer says that they are refused."""
        supported = association.acceptor.supported_contexts
        refused = {
            one.abstract_syntax
            for one in supported
            if not self._needed_by(one.abstract_syntax, association) & admission.services
        }
        if not refused:
            return
        association.acceptor.supported_contexts = [one for one in supported if one.abstract_syntax not in refused]
        accept = association.acse.send_accept

        def send_accept(_acse: Any) -> None:  # noqa: ANN401 - the library has no types
            for one in association.rejected_contexts:
                if one.result == _ABSTRACT_SYNTAX_NOT_SUPPORTED and one.abstract_syntax in refused:
                    one.result = _USER_REJECTION
            accept()

        association.acse.send_accept = MethodType(send_accept, association.acse)

    def _needed_by(self, abstract_syntax: str, association: Association) -> frozenset[Service]:
        """Services that a context is for; C-GET sends in those of storage."""
        known = _SERVICE_OF_MODEL.get(abstract_syntax)
        if known is not None:
            return frozenset({self._service(known, association)})
        return frozenset({Service.STORE, Service.GET}) if is_known_storage(abstract_syntax) else frozenset()

    def _guard(self, association: Association, admission: Admission) -> None:
        """Answer requests of services that are not allowed, in whatever context they come (PS3.7 C.5.13)."""
        serve = association._serve_request

        def serve_request(request: Any, context_id: int) -> None:  # noqa: ANN401 - the library has no types
            service = _SERVICE_OF_REQUEST.get(type(request))
            if service is None or self._service(service, association) in admission.services:
                serve(request, context_id)
            elif request.is_valid_request:
                logger.warning("answered %04X: %s is not allowed", statuses.NOT_AUTHORIZED.code, service.value)
                association.dimse.send_msg(_not_authorized(request), context_id)

        association._serve_request = serve_request


def _plain(address: str) -> str:
    """An address, that of IPv4 where IPv6 stands for it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _reject(association: Association) -> None:
    """Have the negotiation end here, calling AE title not recognized (PS3.8 9.3.4)."""

    def negotiate(acse: Any) -> None:  # noqa: ANN401 - the library has no types
        association.requestor.ae_title = association.requestor.primitive.calling_ae_title
        acse.send_reject(_REJECTED_PERMANENTLY, _BY_SERVICE_USER, _CALLING_AE_TITLE_NOT_RECOGNIZED)
        evt.trigger(association, evt.EVT_REJECTED, {})
        association.kill()

    association.acse.negotiate_association = MethodType(negotiate, association.acse)


def _not_authorized(request: Any) -> Any:  # noqa: ANN401 - primitives of the library
    response = type(request)()
    response.MessageIDBeingRespondedTo = request.MessageID
    for keyword in _named(request):
        setattr(response, keyword.replace("Requested", "Affected"), getattr(request, keyword))
    response.Status = statuses.NOT_AUTHORIZED.code
    return response


def _named(request: Any) -> Iterable[str]:  # noqa: ANN401 - a primitive of the library
    if isinstance(request, N_ACTION):
        return ("RequestedSOPClassUID", "RequestedSOPInstanceUID", "ActionTypeID")
    return (
        ("AffectedSOPClassUID", "AffectedSOPInstanceUID")
        if isinstance(request, C_STORE)
        else ("AffectedSOPClassUID",)
    )
