"""Which presentation contexts the node accepts (PS3.8 section 7.1.1.13)."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts, build_context, register_uid
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
    uid_to_service_class,
)

from dicom_scp.transcoding import COMPRESSED_TARGETS, TARGETS
from indexer.attributes import EMBEDDABLE_SOP_CLASSES

SENDABLE = frozenset({*TARGETS, *COMPRESSED_TARGETS})
"""Transfer syntaxes in which every CT and MR image can be sent."""

QUERY_TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)

STORAGE_TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
)
"""Those whose pixel data the node can decode. Not Deflated: a few bytes of it can inflate to any size."""


@lru_cache(maxsize=1024)
def is_known_storage(sop_class_uid: str) -> bool:
    """Whether the network library takes it for a storage SOP class."""
    return uid_to_service_class(sop_class_uid) is StorageServiceClass


def storage_sop_classes(private: Iterable[str] = ()) -> list[UID]:
    """Every SOP class of the Storage Service Class that can be received (PS3.4 B.5), retired ones included.

    Not those of non-patient objects (PS3.4 annex GG), which belong to no study.

    Parameters
    ----------
    private : iterable of str
        UIDs of private storage SOP classes to accept as well.
    """
    known = {UID(context.abstract_syntax) for context in AllStoragePresentationContexts}
    others = {
        UID(uid)
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name.split(" - ")[0] and _is_storage(uid)
    }
    return sorted(known | others | {UID(uid) for uid in private})


def _is_storage(uid: str) -> bool:
    """Whether the UID lies below that of storage, and the network library knows no other service for it."""
    known = uid_to_service_class(uid)  # it is storage once `supported_contexts` has registered it
    return uid.startswith("1.2.840.10008.5.1.4.1.1.") and (
        known is StorageServiceClass or known.__name__ == "ServiceClass"
    )


def supported_contexts(private_storage_sop_classes: Iterable[str] = ()) -> list[PresentationContext]:
    """The contexts an acceptor offers: Verification, Storage, and Study and Patient Root C-FIND, C-MOVE and C-GET.

    In storage contexts a peer may be the SCP as well: C-GET sends to it in these (PS3.4 C.5.3, PS3.7 D.3.3.4).
    Storage SOP classes that the network library does not know are registered with it as such.
    """
    contexts = [
        build_context(uid, list(QUERY_TRANSFER_SYNTAXES))
        for uid in (
            Verification,
            PatientRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelFind,
            PatientRootQueryRetrieveInformationModelMove,
            StudyRootQueryRetrieveInformationModelMove,
            PatientRootQueryRetrieveInformationModelGet,
            StudyRootQueryRetrieveInformationModelGet,
        )
    ]
    for uid in storage_sop_classes(private_storage_sop_classes):
        if uid_to_service_class(uid) is not StorageServiceClass:
            register_uid(uid, "Storage_" + uid.replace(".", "_"), StorageServiceClass)
        storage = build_context(uid, list(STORAGE_TRANSFER_SYNTAXES))
        storage.scu_role = storage.scp_role = True
        contexts.append(storage)
    return contexts


def by_preference(
    supported: Iterable[PresentationContext],
    requested: Iterable[PresentationContext],
    receives: Mapping[UID, bool],
) -> list[PresentationContext]:
    """The supported contexts, for a peer that will receive what it asks for by C-GET.

    Of several transfer syntaxes in one context one is accepted, before it is known what will be asked for. For the
    images that can be sent in every syntax of `SENDABLE` it is the first of these that the peer names: peers begin
    with what they prefer, and what is stored in that is sent as it is.

    Parameters
    ----------
    receives : mapping of UID to bool
        SOP classes with role selection to whether the peer proposes itself as the SCP (PS3.7 D.3.3.4).
    """
    wanted: dict[UID, Sequence[UID]] = {}
    for one in requested:
        uid = one.abstract_syntax
        if uid in EMBEDDABLE_SOP_CLASSES and receives.get(uid) and len(one.transfer_syntax) > 1:
            wanted.setdefault(uid, [syntax for syntax in one.transfer_syntax if syntax in SENDABLE])
    contexts = []
    for context in supported:
        if first := wanted.get(context.abstract_syntax):
            context = copy.copy(context)  # others share it
            context.transfer_syntax = list(dict.fromkeys([*first, *context.transfer_syntax]))
        contexts.append(context)
    return contexts


def commitment_context() -> PresentationContext:
    """Storage Commitment Push Model, in which a peer that proposes roles can only be the SCU (PS3.7 D.3.3.4)."""
    context = build_context(StorageCommitmentPushModel, list(QUERY_TRANSFER_SYNTAXES))
    context.scu_role, context.scp_role = True, False
    return context
