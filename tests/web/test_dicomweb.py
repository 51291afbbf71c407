"""DICOMweb as clients speak it: search, retrieval and similarity, and what strangers store."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Factory = Callable[..., Any]
ODD_STUDY, ODD_SERIES, ODD_INSTANCE = "1.2.3.5", "1.2.3.5.1", "1.2.3.5.1.1"


def odd(folder: Path) -> Path:
    """An instance with values that their VR does not allow, an unknown character set, and long private values."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, ODD_INSTANCE
    one.StudyInstanceUID, one.SeriesInstanceUID = ODD_STUDY, ODD_SERIES
    one.PatientID, one.Modality = "ODD", "CT"
    block = one.private_block(0x0099, "ODD", create=True)
    block.add_new(0x01, "OB", bytes(range(256)) * 16)
    item = Dataset()
    item.add_new(0x00091002, "OB", b"\1\2\3\4" * 1000)
    one.add_new(0x00400275, "SQ", [item])
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = ODD_INSTANCE
    one.file_meta = meta
    buffer = BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    extra = {
        (0x0008, 0x0005): (b"CS", b"NO SUCH CHARSET "),
        (0x0008, 0x0020): (b"DA", b"yesterday "),
        (0x0008, 0x1030): (b"LO", b"Sch\xe4del \xff\xfe\x80"),
        (0x0010, 0x0010): (b"PN", b"M\xfcller^\x1b$B\xff"),
        (0x0010, 0x1030): (b"DS", b"heavy "),
        (0x0020, 0x0013): (b"IS", b"1.5e400 "),
        (0x0028, 0x0010): (b"US", b"\1"),
        (0x0040, 0xA30A): (b"DS", b"NaN "),
    }
    raw = b"".join(
        group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value
        for (group, element), (vr, value) in extra.items()
    )
    start = content.index(b"\x08\x00\x16\x00UI")
    file = folder / "odd.dcm"
    file.write_bytes(content[:start] + raw + content[start:])
    return file


@dataclass
class Archive:
    """A running node and what was put into it."""

    node: Any
    files: dict[str, Path]
    patients: list[list[Dataset]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.node.ports['http']}"

    @property
    def client(self) -> DICOMwebClient:
        return DICOMwebClient(f"{self.address}/dicomweb")

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.address + path, headers=headers, timeout=120)

    def url(self, one: Dataset) -> str:
        return (
            f"/dicomweb/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}"
            f"/instances/{one.SOPInstanceUID}"
        )


@pytest.fixture(scope="module")
def archive(
    start_shared_node: Factory, pacsimile: Factory, make_series: Factory, tmp_path_factory: pytest.TempPathFactory
) -> Archive:
    """Three patients' chests, one instance in several transfer syntaxes, and an odd one."""
    node = start_shared_node("dicomweb")
    folders = [make_series(number) for number in (1, 2, 3)]
    more = tmp_path_factory.mktemp("more")
    odd(more)
    first = dcmread(sorted(folders[0].rglob("*.dcm"))[0])
    for syntax in (ImplicitVRLittleEndian, JPEGLSLossless, RLELossless):
        one = dcmread(sorted(folders[0].rglob("*.dcm"))[0])
        one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3.6", "1.2.3.6.1"
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[syntax])
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        one.PixelData = first.PixelData
        if syntax == ImplicitVRLittleEndian:
            one.file_meta.TransferSyntaxUID = syntax
            one.save_as(more / f"{syntax}.dcm", implicit_vr=True, little_endian=True)
        else:
            one.compress(syntax, generate_instance_uid=False)
            one.save_as(more / f"{syntax}.dcm")
    done = pacsimile("ingest", *folders, more, "--data-dir", node.data_dir, "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    node.wait_until_indexed()
    files = {str(dcmread(f, stop_before_pixels=True).SOPInstanceUID): f for f in more.glob("1*.dcm")}
    patients = [[dcmread(f) for f in sorted(folder.rglob("*.dcm"))] for folder in folders]
    files |= {str(dcmread(f).SOPInstanceUID): f for folder in folders for f in folder.rglob("*.dcm")}
    return Archive(node, files, patients)


def value(found: dict[str, Any], tag: str) -> Any:  # noqa: ANN401 - any JSON
    return found[tag]["Value"][0]


def test_a_client_finds_studies_series_and_instances(archive: Archive) -> None:
    client, one = archive.client, archive.patients[1][0]
    assert len(client.search_for_studies()) == 5
    (study,) = client.search_for_studies(search_filters={"PatientID": one.PatientID})
    assert value(study, "0020000D") == one.StudyInstanceUID
    assert value(study, "00201208") == len(archive.patients[1])
    assert value(study, "00080061") == "CT"
    (same,) = archive.get(f"/dicomweb/studies?PatientID={one.PatientID}").json()
    assert value(same, "00081190") == f"{archive.address}/dicomweb/studies/{one.StudyInstanceUID}"
    (series,) = client.search_for_series(one.StudyInstanceUID)
    assert value(series, "0020000E") == one.SeriesInstanceUID
    instances = client.search_for_instances(one.StudyInstanceUID, one.SeriesInstanceUID)
    assert {value(found, "00080018") for found in instances} == {str(i.SOPInstanceUID) for i in archive.patients[1]}
    assert value(instances[0], "00280010") == one.Rows
    everywhere = client.search_for_instances(search_filters={"SOPInstanceUID": one.SOPInstanceUID})
    assert value(everywhere[0], "0020000D") == one.StudyInstanceUID
    assert len(client.search_for_series()) == 5


def test_matching_is_that_of_c_find(archive: Archive) -> None:
    one = archive.patients[0][0]
    name = str(one.PatientName)

    def found(query: str) -> set[str]:
        answer = archive.get(f"/dicomweb/studies?{query}")
        assert answer.status_code == 200, answer.text
        return {value(study, "0020000D") for study in answer.json()}

    assert one.StudyInstanceUID in found(f"PatientName={name[:3].lower()}*")
    assert found(f"StudyDate={one.StudyDate}-{one.StudyDate}&PatientID={one.PatientID}") >= {one.StudyInstanceUID}
    two = f"{one.StudyInstanceUID},{archive.patients[1][0].StudyInstanceUID}"
    assert len(found(f"0020000D={two}")) == 2
    assert found("ModalitiesInStudy=MR") == set()
    assert found("ModalitiesInStudy=CT%2CMR") == found("ModalitiesInStudy=MR%5CCT") == found("ModalitiesInStudy=CT")
    assert one.StudyInstanceUID in found("ModalitiesInStudy=MR,CT&PatientSex=F,M,O")


def test_pages_fields_and_what_is_not_supported(archive: Archive) -> None:
    first = archive.get("/dicomweb/studies?limit=2")
    assert "additional results" in first.headers["Warning"]
    rest = archive.get("/dicomweb/studies?limit=5&offset=2")
    assert "Warning" not in rest.headers
    uids = [value(study, "0020000D") for study in (*first.json(), *rest.json())]
    assert len(uids) == len(set(uids)) == 5
    everything = archive.get("/dicomweb/studies?includefield=all&limit=1").json()[0]
    fewer = archive.get("/dicomweb/studies?limit=1").json()[0]
    assert set(everything) > set(fewer)
    assert "0040A730" not in fewer
    fuzzy = archive.get("/dicomweb/studies?fuzzymatching=true&WindowCenter=40")
    assert "fuzzymatching parameter is not supported" in fuzzy.headers["Warning"]
    assert "WindowCenter" in fuzzy.headers["Warning"]
    assert len(fuzzy.json()) == 5


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "offset=-1", "NoSuchAttribute=1", "StudyDate=yesterday", "PatientID.Code=1"]
)
def test_what_cannot_be_meant_is_a_problem(archive: Archive, query: str) -> None:
    answer = archive.get(f"/dicomweb/studies?{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")


def test_a_client_gets_the_very_pixels_that_were_stored(archive: Archive) -> None:
    client = archive.client
    for one in (archive.patients[0][0], archive.patients[2][-1]):
        uids = one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID
        got = client.retrieve_instance(*uids)
        assert got.PixelData == one.PixelData
        assert got.SOPInstanceUID == one.SOPInstanceUID
        (frame,) = client.retrieve_instance_frames(*uids, frame_numbers=[1])
        assert frame == one.PixelData
    stored = dcmread(archive.files[archive.patients[0][0].SOPInstanceUID])
    assert (
        client.retrieve_instance(stored.StudyInstanceUID, stored.SeriesInstanceUID, stored.SOPInstanceUID) == stored
    )


def test_whole_series_and_studies_come_in_parts(archive: Archive) -> None:
    one = archive.patients[0][0]
    got = archive.client.retrieve_series(one.StudyInstanceUID, one.SeriesInstanceUID)
    assert {str(i.SOPInstanceUID) for i in got} == {str(i.SOPInstanceUID) for i in archive.patients[0]}
    assert len(archive.client.retrieve_study(one.StudyInstanceUID)) == len(archive.patients[0])


def parts(answer: requests.Response) -> list[tuple[str, bytes]]:
    assert answer.status_code == 200, answer.text
    boundary = answer.headers["Content-Type"].partition("boundary=")[2]
    found = answer.content.split(f"--{boundary}".encode())[1:-1]
    assert answer.content.endswith(f"--{boundary}--\r\n".encode())
    heads_and_bodies = [part[2:-2].split(b"\r\n\r\n", 1) for part in found]
    return [(head.decode().partition(": ")[2], body) for head, body in heads_and_bodies]


def test_transfer_syntaxes(archive: Archive) -> None:
    one = archive.patients[0][0]
    for stored in archive.client.search_for_instances("1.2.3.6"):
        file = archive.files[value(stored, "00080018")]
        path = f"/dicomweb/studies/1.2.3.6/series/1.2.3.6.1/instances/{value(stored, '00080018')}"
        syntax = dcmread(file).file_meta.TransferSyntaxUID
        dicom = 'multipart/related; type="application/dicom"'
        ((kind, content),) = parts(archive.get(path, Accept=f"{dicom}; transfer-syntax=*"))
        assert kind == f"application/dicom; transfer-syntax={syntax}"
        assert dcmread(BytesIO(content)).PixelData == dcmread(file).PixelData
        ((kind, content),) = parts(archive.get(path, Accept=dicom))
        plain = dcmread(BytesIO(content))
        assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert plain.PixelData == one.PixelData
        alone = archive.get(path, Accept="application/dicom; transfer-syntax=*")
        assert alone.headers["Content-Type"].startswith("application/dicom")
        assert dcmread(BytesIO(alone.content)) == dcmread(file)
        ((kind, content),) = parts(archive.get(f"{path}/frames/1"))
        assert content == one.PixelData
        octets = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
        ((kind, content),) = parts(archive.get(f"{path}/frames/1", Accept=octets))
        unquoted = "multipart/related; type=application/octet-stream; transfer-syntax=*"
        assert parts(archive.get(f"{path}/frames/1", Accept=unquoted)) == [(kind, content)]
        if syntax.is_encapsulated:
            names = {JPEGLSLossless: "image/jls", RLELossless: "image/dicom-rle"}
            assert kind == f"{names[syntax]}; transfer-syntax={syntax}"
            assert content == get_frame(dcmread(file).PixelData, 0)
            (typed,) = parts(archive.get(f"{path}/frames/1", Accept=f'multipart/related; type="{names[syntax]}"'))
            assert typed[1] == content
        else:
            assert content == one.PixelData


def test_requests_as_ohif_sends_them(archive: Archive) -> None:
    """As OHIF 3.12 was seen to ask: study list, series list, metadata, frames, a document, a segmentation."""
    one = archive.patients[1][0]
    json_only = "application/dicom+json"
    listed = "limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060"
    for more in (f"00100020={one.PatientID}&", f"00100020=*{one.PatientID}*&ModalitiesInStudy=CT%2CMR&"):
        (study,) = archive.get(f"/dicomweb/studies?{more}{listed}", Accept=json_only).json()
        assert value(study, "0020000D") == one.StudyInstanceUID
    (study,) = archive.get(f"/dicomweb/studies?{listed}&StudyInstanceUID={one.StudyInstanceUID}").json()
    path = f"/dicomweb/studies/{one.StudyInstanceUID}/series"
    (series,) = archive.get(f"{path}?includefield=00080021%2C00080031%2C0008103E%2C00200011").json()
    assert value(series, "00080060") == "CT"
    described = archive.get(f"{path}/{one.SeriesInstanceUID}/metadata", Accept=json_only)
    assert len(described.json()) == len(archive.patients[1])
    for octets in (
        '"application/octet-stream"; transfer-syntax="*"',
        "application/octet-stream; transfer-syntax=*",
    ):
        ((_, frame),) = parts(
            archive.get(f"{archive.url(one)}/frames/1", Accept=f"multipart/related; type={octets}")
        )
        assert frame == one.PixelData
    document = 'multipart/related; type="application/pdf", multipart/related; type="application/octet-stream"'
    odd = f"/dicomweb/studies/{ODD_STUDY}/series/{ODD_SERIES}/instances/{ODD_INSTANCE}/bulkdata/00991001"
    assert [content for _, content in parts(archive.get(odd, Accept=document))] == [bytes(range(256)) * 16]
    ((_, whole),) = parts(archive.get(archive.url(one), Accept='multipart/related; type="application/dicom"'))
    assert dcmread(BytesIO(whole)).SOPInstanceUID == one.SOPInstanceUID


def test_urls_in_answers_are_those_of_the_host_asked_for(archive: Archive) -> None:
    one = archive.patients[1][0]
    (found,) = archive.get(f"{archive.url(one)}/metadata", Host="localhost:8042").json()
    assert found["7FE00010"]["BulkDataURI"].startswith("http://localhost:8042/dicomweb/")


def test_what_cannot_be_had(archive: Archive) -> None:
    path = archive.url(archive.patients[0][0])
    assert archive.get(path, Accept="text/plain").status_code == 406
    assert archive.get(f"{path}/frames/1", Accept="image/jp2").status_code == 406
    assert archive.get(f"{path}/metadata", Accept="application/dicom+xml").status_code == 406
    assert archive.get(f"{path}/frames/2").status_code == 404
    assert archive.get(f"{path}/frames/0").status_code == 404
    assert archive.get(f"{path}/frames/x").status_code == 422
    assert archive.get("/dicomweb/studies/1.2.404").status_code == 404
    assert archive.get("/dicomweb/studies/1.2.404/metadata").status_code == 404
    assert archive.get(f"{path}/bulkdata/00990099").status_code == 404


def test_metadata_say_what_the_header_says(archive: Archive) -> None:
    one = archive.patients[0][2]
    (found,) = archive.get(f"{archive.url(one)}/metadata").json()
    url = found.pop("7FE00010")["BulkDataURI"]
    read = Dataset.from_json(found)
    for keyword in ("PatientName", "StudyInstanceUID", "ImagePositionPatient", "PixelSpacing", "RescaleIntercept"):
        assert read[keyword].value == one[keyword].value
    ((_, pixels),) = parts(archive.get(url.removeprefix(archive.address)))
    assert pixels == one.PixelData
    series = archive.client.retrieve_series_metadata(one.StudyInstanceUID, one.SeriesInstanceUID)
    assert len(series) == len(archive.patients[0])
    assert len(archive.client.retrieve_study_metadata(one.StudyInstanceUID)) == len(series)


def test_pictures_are_there_as_well(archive: Archive) -> None:
    one = archive.patients[0][0]
    answer = archive.get(f"{archive.url(one)}/frames/1/rendered?window=40,400", Accept="image/jpeg")
    assert np.asarray(Image.open(BytesIO(answer.content))).shape == (one.Rows, one.Columns)


def test_what_its_vr_does_not_allow_is_left_out_and_the_rest_is_told(archive: Archive) -> None:
    path = f"/dicomweb/studies/{ODD_STUDY}/series/{ODD_SERIES}/instances/{ODD_INSTANCE}"
    answer = archive.get(f"{path}/metadata")
    assert answer.status_code == 200, answer.text
    (found,) = json.loads(answer.content.decode("utf-8"))
    assert value(found, "00100020") == "ODD"
    assert value(found, "00080005") == "ISO_IR 192"
    assert "00200013" not in found
    assert "0040A30A" not in found
    assert "00080020" in found
    for query in (
        f"/dicomweb/studies?StudyInstanceUID={ODD_STUDY}&includefield=all",
        "/dicomweb/instances?includefield=all",
    ):
        studies = archive.get(query)
        assert studies.status_code == 200
        assert any(value(study, "0020000D") == ODD_STUDY for study in studies.json())
    assert archive.get(f"{path}/rendered").status_code == 422
    assert archive.get(f"{path}/frames/1").status_code == 422
    assert "heavy" not in archive.node.log
    assert "left out of JSON" in archive.node.log


def test_long_binary_values_are_had_by_themselves(archive: Archive) -> None:
    path = f"/dicomweb/studies/{ODD_STUDY}/series/{ODD_SERIES}/instances/{ODD_INSTANCE}"
    (found,) = archive.get(f"{path}/metadata").json()
    private = found["00991001"]["BulkDataURI"]
    nested = found["00400275"]["Value"][0]["00091002"]["BulkDataURI"]
    for url, expected in ((private, bytes(range(256)) * 16), (nested, b"\1\2\3\4" * 1000)):
        answer = archive.get(url.removeprefix(archive.address), Accept="application/octet-stream")
        assert answer.content == expected


def test_a_stored_file_that_changed_is_not_passed_off_as_the_instance(archive: Archive) -> None:
    one = archive.patients[2][1]
    with archive.node.catalog() as catalog:
        file = archive.node.data_dir / "spool" / catalog.lookup.instance_path(one.SOPInstanceUID)
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"\x55\xaa")
    try:
        with pytest.raises(requests.exceptions.RequestException):
            archive.get(archive.url(one), Accept="application/dicom; transfer-syntax=*")
    finally:
        file.write_bytes(content)


def test_similar_studies_as_a_search(archive: Archive) -> None:
    own, other = archive.patients[0][0], archive.patients[1][0]
    plain = archive.get(f"/studies/{own.StudyInstanceUID}/similar").json()["hits"]
    answer = archive.get(f"/similar/{own.StudyInstanceUID}/studies?includefield=00080090")
    assert answer.headers["Content-Type"] == "application/dicom+json"
    found = answer.json()
    assert [value(one, "0020000D") for one in found] == [hit["study_instance_uid"] for hit in plain]
    assert value(found[0], "00770010") == "PACSIMILE"
    assert value(found[0], "00771010") == pytest.approx(plain[0]["similarity"])
    assert [value(one, "00771011") for one in found] == list(range(1, len(found) + 1))
    assert value(found[0], "00771017") == plain[0]["relation"]
    first = next(one for one in found if value(one, "0020000D") == other.StudyInstanceUID)
    assert value(first, "00100020") == other.PatientID
    second = archive.get(f"/similar/{own.StudyInstanceUID}/studies?limit=1&offset=1").json()
    assert [value(one, "0020000D") for one in second] == [value(found[1], "0020000D")]
    only = archive.get(f"/similar/{own.StudyInstanceUID}/studies?PatientID={other.PatientID}").json()
    assert [value(one, "00100020") for one in only] == [other.PatientID]
    assert archive.get("/similar/1.2.404/studies").status_code == 404
    assert archive.get(f"/similar/{ODD_STUDY}/studies").status_code in {422, 503}
