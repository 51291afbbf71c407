"""`pacsimile serve`."""

from config.model import Role, Settings
from node import folder, logs
from node.cli.output import errors
from node.processes import serve_promptly
from node.service import Node


def run(settings: Settings) -> None:
    """Serve until stopped; says in a few lines how to send and how to ask."""
    if settings.log.to == "file":
        folder.prepare(settings.data_dir)
    logs.configure(settings)
    serve_promptly()
    Node(settings).run(_say_how)


def _say_how(node: Node) -> None:
    settings, host = node.settings, node.settings.dicom.host
    reach = "localhost" if host in {"127.0.0.1", "::1", "0.0.0.0", "::"} else host  # noqa: S104 - compared only
    port = node.dicom_port
    web = f"{'https' if settings.http.tls.certificate_file else 'http'}://{reach}:{node.http_port}"
    told = [f"Pacsimile is ready. Data in {settings.data_dir.resolve()}"]
    if settings.has(Role.RECEIVE):
        told += [
            f"send a study       storescu -aec {settings.dicom.aet} +sd +r {reach} {port} FOLDER",
            "                     with -xs for JPEG files, -xt for JPEG-LS, -xv for JPEG 2000",
        ]
    if settings.has(Role.QUERY):
        told += [
            f"ask what is like   findscu -S -aec {settings.dicom.similar_aet} -k QueryRetrieveLevel=STUDY \\",
            f"                     -k StudyInstanceUID=UID -k PatientID -k StudyDescription {reach} {port}",
            f"over HTTP          {web}/studies/UID/similar",
        ]
    if set(settings.roles) < set(Role):
        told.append(f"this node's part   {', '.join(settings.roles)}; its health: {web}/health")
    told.append(f"how it stands      pacsimile status --data-dir {settings.data_dir}")
    errors.print("\n" + "\n  ".join(told) + "\nNot for diagnosis. Ctrl-C stops.\n")
