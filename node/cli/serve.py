"""`pacsimile serve`."""

from config.model import Settings
from node import folder, logs
from node.cli.output import errors
from node.service import Node


def run(settings: Settings) -> None:
    """Serve until stopped; says in a few lines how to send and how to ask."""
    if settings.log.to == "file":
        folder.prepare(settings.data_dir)
    logs.configure(settings)
    Node(settings).run(_say_how)


def _say_how(node: Node) -> None:
    settings, host = node.settings, node.settings.dicom.host
    reach = "localhost" if host in {"127.0.0.1", "::1", "0.0.0.0", "::"} else host  # noqa: S104 - compared only
    port = node.dicom_port
    scheme = "https" if settings.http.tls.certificate_file else "http"
    errors.print(
        f"""
Pacsimile is ready. Data in {settings.data_dir.resolve()}
  send a study       storescu -aec {settings.dicom.aet} +sd +r {reach} {port} FOLDER
  ask what is like   findscu -S -aec {settings.dicom.similar_aet} -k QueryRetrieveLevel=STUDY \\
                       -k StudyInstanceUID=UID -k PatientID -k StudyDescription {reach} {port}
  over HTTP          {scheme}://{reach}:{node.http_port}/studies/UID/similar
  how it stands      pacsimile status --data-dir {settings.data_dir}
Not for diagnosis. Ctrl-C stops.
"""
    )
