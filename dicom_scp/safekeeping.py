"""Whether the node can commit to the safekeeping of instances: each is there, and is what was received."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence

from config.access import Cohort
from dicom_scp import statuses
from dicom_scp.draft import content_digest
from dicom_scp.spool import Spool
from indexer.catalog.commitments import Commitments, HeldInstance, Reference
from indexer.errors import Damaged

logger = logging.getLogger(__name__)

COMMITTED = 0
_ASIDE = ".damaged"


def check(
    references: Sequence[Reference],
    commitments: Commitments,
    spool: Spool,
    supported_sop_classes: Collection[str],
    between: Callable[[], None] = lambda: None,
    *,
    cohort: Cohort | None = None,
) -> Iterator[int]:
    """Read every stored file and compare its checksum.

    Parameters
    ----------
    supported_sop_classes : collection of str
        What the node can store at all.
    between : callable
        Called before every file; may raise to end the check.
    cohort : Cohort, optional
        Instances of other studies are as if they were not there.

    Yields
    ------
    int
        For each reference in order: `COMMITTED`, or the Failure Reason (0008,1197; PS3.3 C.14.1.1).

    Raises
    ------
    Transient
        The catalog cannot be read now.
    """
    held = commitments.held([one.sop_instance_uid for one in references], cohort)
    for reference in references:
        between()
        instance = held.get(reference.sop_instance_uid)
        if instance is None:
            supported = reference.sop_class_uid in supported_sop_classes
            missing = (
                statuses.COMMIT_NO_SUCH_OBJECT_INSTANCE if supported else statuses.COMMIT_SOP_CLASS_NOT_SUPPORTED
            )
            yield missing.code
        elif instance.sop_class_uid != reference.sop_class_uid:
            yield statuses.COMMIT_CLASS_INSTANCE_CONFLICT.code
        else:
            yield _checked(reference, instance, commitments, spool)


def _checked(reference: Reference, instance: HeldInstance, commitments: Commitments, spool: Spool) -> int:
    """Read one file; where it is not sound, look again while nobody can be replacing it, and act on that."""
    with spool.exclusively(reference.sop_instance_uid):
        pass  # its file was perhaps on its way to the disk: it is durable now, or gone
    if _fault(instance, spool) is None:
        return COMMITTED
    with spool.exclusively(reference.sop_instance_uid):
        now = commitments.held([reference.sop_instance_uid]).get(reference.sop_instance_uid)
        fault = None if now is None else _fault(now, spool)
        if now is not None and fault is None:
            return COMMITTED
        if now is None or isinstance(fault, FileNotFoundError):
            logger.error("the file of instance %s is missing", reference.sop_instance_uid)
            return statuses.COMMIT_NO_SUCH_OBJECT_INSTANCE.code
        if not isinstance(fault, OSError):
            spool.set_aside(now.path)
        logger.error("the file of instance %s is not what was stored: not committed to", reference.sop_instance_uid)
        return statuses.COMMIT_PROCESSING_FAILURE.code


def _fault(instance: HeldInstance, spool: Spool) -> BaseException | None:
    """What is wrong with a stored file; an OSError where it could not be read."""
    try:
        transfer_syntax_uid, dataset = spool.read_kept(instance.path)
    except Damaged as error:
        return error.__cause__ or error
    if content_digest(transfer_syntax_uid, dataset) != instance.sha256:
        return Damaged("the SHA-256 is not that of the catalog")
    return None
