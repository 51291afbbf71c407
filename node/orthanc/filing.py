"""Filing a report in Orthanc, over its REST API."""

from contextlib import closing

from config.model import OrthancSettings
from indexer.errors import NotFound, Transient
from node.orthanc.client import OrthancClient


def file_at_orthanc(settings: OrthancSettings, file: bytes) -> None:
    """Store a DICOM file in Orthanc, and put the label of the settings on its study where Orthanc has labels.

    Raises
    ------
    Transient
        Orthanc does not answer, or cannot store it now.
    Refused
        It does not take it.
    """
    with closing(OrthancClient(settings)) as client:
        try:
            study_id = client.store(file)
            if settings.label and study_id and client.system().has_labels:
                client.add_label(study_id, settings.label)
        except NotFound as error:  # a proxy without an Orthanc behind it, or the study was deleted just now
            raise Transient(str(error)) from error
