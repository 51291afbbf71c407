"""Rejection notes: Key Object Selection documents that say which instances are no longer to be used.

IHE Radiology, Imaging Object Change Management (RAD TF-3 4.66, Rejection Note Stored): the Document Title says why
(PS3.16 CID 7011), Current Requested Procedure Evidence Sequence (0040,A375) which (PS3.3 C.17.6.2).
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from config.model import ForgettingSettings
from dicom_scp.forgetting import Forgetter
from dicom_scp.parsing import parse, quiet
from indexer.attributes import first_value
from indexer.catalog import Lookup
from indexer.catalog.engine import blocks
from indexer.catalog.lookup import Level, Prefilter
from indexer.catalog.tombstones import Removal, Target
from indexer.errors import Refused

logger = logging.getLogger(__name__)

TITLES = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
}
"""Code values of the coding scheme DCM that make a Key Object Selection a rejection note."""
_CONCEPT_NAME, _EVIDENCE = 0x0040A043, 0x0040A375


@dataclass(frozen=True, slots=True)
class RejectedInstance:
    """An instance as a rejection note names it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class RejectionNote:
    """What a rejection note says.

    Attributes
    ----------
    title : str
        Code value, one of `TITLES`.
    """

    title: str
    instances: tuple[RejectedInstance, ...]


Rejecting = Callable[[Collection[Target], str], AbstractContextManager[None]]
"""Is entered before what a note rejects is forgotten, with the calling AE title, and left when it is."""


class Rejections:
    """Acts on rejection notes, where the settings say so; others, and those not understood, are stored only."""

    def __init__(self, settings: ForgettingSettings, lookup: Lookup, forgetter: Forgetter) -> None:
        self._settings = settings
        self._lookup = lookup
        self._forgetter = forgetter
        self.rejecting: Rejecting = lambda _targets, _sender: nullcontext()

    def act(self, sop_class_uid: str, dataset: bytes, transfer_syntax_uid: str, sender: str) -> Removal | None:
        """Forget what a note that was just stored rejects.

        Instances that are held under another study, series or SOP class than the note says stay. Those that are
        not held are refused when they come, if `forgetting.refuse_again` has the title.

        Parameters
        ----------
        sender : str
            Calling AE title.

        Returns
        -------
        Removal or None
            None where it is no rejection note, or one that is not acted on.

        Raises
        ------
        Transient
            It cannot be acted on now; sending it again repeats it.
        """
        if sop_class_uid != KeyObjectSelectionDocumentStorage:
            return None
        try:
            note = read_note(parse(dataset, transfer_syntax_uid, (_CONCEPT_NAME, _EVIDENCE)))
        except Refused as error:
            logger.warning("rejection note stored and not acted on: %s", error)
            return None
        if note is None:
            return None
        if note.title not in self._settings.rejection_titles or sender not in self._settings.rejection_aets:
            logger.warning("rejection note stored and not acted on: %s", TITLES[note.title])
            return None
        confirmed = self._confirmed(note)
        targets = [Target(Level.IMAGE, uid) for uid in confirmed]
        with self.rejecting(targets, sender):
            removed = self._forgetter.forget(targets, note.title)
        logger.info("%d instances forgotten: %s", removed.instances, TITLES[note.title])
        return removed

    def _confirmed(self, note: RejectionNote) -> list[str]:
        """SOP Instance UIDs of what is held as the note says, or not held."""
        named = {one.sop_instance_uid: one for one in note.instances}
        other = set()
        for block in blocks(named):
            for entity in self._lookup.entities(Level.IMAGE, Prefilter(sop_instance_uid=block)):
                held = RejectedInstance(
                    first_value(entity.attributes, "StudyInstanceUID"),
                    first_value(entity.attributes, "SeriesInstanceUID"),
                    first_value(entity.attributes, "SOPClassUID"),
                    first_value(entity.attributes, "SOPInstanceUID"),
                )
                if named.get(held.sop_instance_uid) != held:
                    other.add(held.sop_instance_uid)
        if other:
            logger.warning("%d rejected instances are held under another study, series or class: kept", len(other))
        return [uid for uid in named if uid not in other]


def read_note(document: Dataset) -> RejectionNote | None:
    """What a Key Object Selection rejects; None if it is no rejection note.

    Raises
    ------
    Refused
        It is one, and does not name instances as PS3.3 C.17.6.2 says.
    """
    with quiet():
        try:
            names = document.get(_CONCEPT_NAME)
            name = names.value[0] if names is not None and names.value else Dataset()
            title = str(name.get("CodeValue", "")).strip()
            if str(name.get("CodingSchemeDesignator", "")).strip() != "DCM" or title not in TITLES:
                return None
            return RejectionNote(title, tuple(dict.fromkeys(_referenced(document))))
        except Refused:
            raise
        except Exception as error:  # a hostile value raises anything at all
            raise Refused("the rejection note cannot be understood") from error


def _referenced(document: Dataset) -> Iterator[RejectedInstance]:
    evidence = document.get(_EVIDENCE)
    if evidence is None or not evidence.value:
        raise Refused("the rejection note has no Current Requested Procedure Evidence Sequence (0040,A375)")
    for of_study in evidence.value:
        for of_series in of_study.ReferencedSeriesSequence:
            for reference in of_series.ReferencedSOPSequence:
                yield RejectedInstance(
                    str(of_study.StudyInstanceUID),
                    str(of_series.SeriesInstanceUID),
                    str(reference.ReferencedSOPClassUID),
                    str(reference.ReferencedSOPInstanceUID),
                )
