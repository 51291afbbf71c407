"""Every real series into a node and on by C-MOVE and C-GET: what arrives is what went in, byte for byte."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyGet

from dicom_scp.equivalence import same_content
from dicom_scp.part10 import split_file
from indexer.catalog.lookup import Level

Factory = Callable[..., Any]
Encoded = dict[str, tuple[str, bytes]]
"""SOP Instance UID to transfer syntax and data set, as they are encoded."""
PREFER = {
    ExplicitVRLittleEndian: "+xe",
    JPEGLosslessSV1: "+xs",
    JPEGLSLossless: "+xt",
    JPEG2000Lossless: "+xv",
    RLELossless: "+xr",
}
"""What getscu is told so that it proposes a transfer syntax before the uncompressed ones, in the same context.

Its `+xi` proposes Explicit VR Little Endian alone.
"""


SOP_CLASSES = (CTImageStorage, MRImageStorage)


@dataclass
class Archive:
    """A node that holds every real series and knows storescp as DEST.

    Attributes
    ----------
    moved : Path
        What storescp writes to.
    series : dict of str to Encoded
        What went in, by Series Instance UID.
    studies : dict of str to str
        Series Instance UID to Study Instance UID.
    """

    node: Any
    moved: Path
    series: dict[str, Encoded]
    studies: dict[str, str]


def encoded(file: Path) -> Encoded:
    return {str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): split_file(file.read_bytes())}


def all_encoded(files: Any) -> Encoded:  # noqa: ANN401 - any iterable of paths
    return {uid: one for file in files for uid, one in encoded(file).items()}


def environment() -> dict[str, str]:
    return {**os.environ, "TCP_NODELAY": "1"}


@pytest.fixture(scope="module")
def archive(
    start_shared_node: Factory,
    pacsimile: Factory,
    tool: Factory,
    shared_dicom: Path,
    find_port: Callable[[], int],
    wait_for: Factory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Archive]:
    folder, port = tmp_path_factory.mktemp("dest"), find_port()
    settings = folder.parent / "peers.toml"
    settings.write_text(f'[[peers]]\naet = "DEST"\nhost = "127.0.0.1"\nport = {port}\n')
    command = [tool("storescp"), "-aet", "DEST", "-od", str(folder), "+xa", "+B", "-uf", str(port)]
    destination = subprocess.Popen(command, env=environment())
    try:
        wait_for(lambda: listens(port), 60, "storescp listens")
        node = start_shared_node(PACSIMILE_CONFIG=str(settings), PACSIMILE_INDEXING_QUIET_TIME_S="3600")
        kept = pacsimile("ingest", shared_dicom, "--data-dir", node.data_dir, "--no-index", "--json")
        assert kept.status == 0, kept.err
        assert all_encoded((node.data_dir / "spool").rglob("*.dcm")) == all_encoded(
            file for file in shared_dicom.rglob("*.dcm") if str(file) not in kept.json["refused"]
        )
        yield Archive(node, folder, *held(node))
    finally:
        destination.kill()
        destination.wait()


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def held(node: Any) -> tuple[dict[str, Encoded], dict[str, str]]:  # noqa: ANN401 - the fixture's class
    """What the node's catalog names, by series, and the study of each."""
    series: dict[str, Encoded] = {}
    studies: dict[str, str] = {}
    with node.catalog() as catalog:
        for image in catalog.lookup.entities(Level.IMAGE):
            study, of, uid = (image.attributes[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
            studies[of] = study
            series.setdefault(of, {}).update(encoded(node.data_dir / "spool" / catalog.lookup.instance_path(uid)))
    return series, studies


def identifier(archive: Archive, series: str) -> dict[str, str]:
    return {
        "QueryRetrieveLevel": "SERIES",
        "StudyInstanceUID": archive.studies[series],
        "SeriesInstanceUID": series,
    }


def run(command: list[str], node: Any, keys: Mapping[str, str]) -> str:  # noqa: ANN401 - the fixture's class
    named = [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]
    done = subprocess.run(
        [*command, "-v", "-S", "-aec", "PACSIMILE", *named, "127.0.0.1", str(node.dicom_port)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_movescu_and_storescp(archive: Archive, tool: Factory) -> None:
    for study in set(archive.studies.values()):
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
        run([tool("movescu"), "-aem", "DEST"], archive.node, keys)
    assert all_encoded(archive.moved.iterdir()) == {
        uid: one for series in archive.series.values() for uid, one in series.items()
    }


@pytest.mark.slow
def test_getscu(archive: Archive, tool: Factory, tmp_path: Path) -> None:
    for number, (series, wanted) in enumerate(archive.series.items()):
        (syntax,) = {syntax for syntax, _ in wanted.values()}
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [tool("getscu"), PREFER.get(syntax, "+xe"), "+B", "-od", str(folder)]
        said = run(command, archive.node, identifier(archive, series))
        came = all_encoded(folder.iterdir())
        if syntax in PREFER:
            assert came == wanted, said[-2000:]
        else:
            assert set(came) == set(wanted), said[-2000:]
            for uid, (as_came, dataset) in came.items():
                assert same_content(dataset, as_came, wanted[uid][1], syntax)


@pytest.mark.slow
def test_the_get_scu_of_pynetdicom(archive: Archive) -> None:
    """It proposes each transfer syntax in a context of its own: each instance comes in the one it has."""
    came: Encoded = {}

    def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
        uid = str(event.request.AffectedSOPInstanceUID)
        came[uid] = (str(event.context.transfer_syntax), event.request.DataSet.getvalue())
        return 0

    entity = AE(ae_title="GETTER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    entity.add_requested_context(StudyGet, ExplicitVRLittleEndian)
    for sop_class in SOP_CLASSES:
        for syntax in (ImplicitVRLittleEndian, *PREFER):
            entity.add_requested_context(sop_class, syntax)
    association = entity.associate(
        "127.0.0.1",
        archive.node.dicom_port,
        ae_title="PACSIMILE",
        ext_neg=[build_role(sop_class, scp_role=True) for sop_class in SOP_CLASSES],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    assert association.is_established
    for series, wanted in archive.series.items():
        came.clear()
        asked = Dataset()
        for keyword, value in identifier(archive, series).items():
            setattr(asked, keyword, value)
        last, _ = list(association.send_c_get(asked, StudyGet))[-1]
        assert (last.Status, last.NumberOfCompletedSuboperations) == (0, len(wanted))
        assert came == wanted
    association.release()
