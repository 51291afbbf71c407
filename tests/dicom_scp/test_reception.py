import errno
import os
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from engines import catalog_url
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_scp.draft import content_digest
from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver, Verdict
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Damaged, Refused, Transient
from indexer.sealing import Vault

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@pytest.fixture(params=["plain", "sealed"])
def spool(tmp_path: Path, request: pytest.FixtureRequest) -> Spool:
    return Spool(tmp_path / "spool", vault=Vault(bytes(32)) if request.param == "sealed" else None)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(catalog_url(tmp_path)) as opened:
        yield opened


@pytest.fixture
def receiver(catalog: Catalog, spool: Spool) -> Receiver:
    return Receiver(catalog, spool, "keep-first")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a small CT image as a file; its private elements are of a creator that no dictionary knows."""

    def build(name: str = "one.dcm", syntax: str = ExplicitVRLittleEndian, **attributes: object) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else UID(syntax)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.5")
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "2.25.1", "2.25.11", "CT"
        dataset.PatientID, dataset.PatientName = "P1", "Doe^Jane"
        block = dataset.private_block(0x0099, "TESTS OF RECEPTION", create=True)
        block.add_new(0x01, "LO", "odd")
        block.add_new(0x02, "DS", ["1.50", "2"])
        dataset.Rows = dataset.Columns = 4
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.SmallestImagePixelValue = -5
        dataset.PixelData = bytes(range(32))
        dataset["PixelData"].VR = "OW"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return build


def stored(spool: Spool) -> list[Path]:
    return sorted(spool.folder.glob("*/*/*.dcm"))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_a_file_keeps_its_bytes_and_transfer_syntax(
    receiver: Receiver, spool: Spool, write: Callable[..., Path], syntax: str
) -> None:
    file = write(syntax=syntax)
    reception = receiver.take_file(file)
    assert (reception.verdict, reception.series_instance_uid) == (Verdict.STORED, "2.25.11")
    (kept,) = stored(spool)
    content = spool.file(str(kept.relative_to(spool.folder))).read_bytes()
    assert split_file(content) == split_file(file.read_bytes())
    digest = content_digest(*split_file(file.read_bytes()))
    assert kept.relative_to(spool.folder) == Path(digest[0], digest[1], f"{digest}.dcm")
    assert dcmread(BytesIO(content)).PixelData
    assert receiver.take_file(file).verdict is Verdict.KNOWN


@pytest.mark.parametrize("first", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize(
    "second", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_another_encoding_is_the_same_content(
    receiver: Receiver, spool: Spool, write: Callable[..., Path], first: str, second: str
) -> None:
    assert receiver.take_file(write("one.dcm", first)).verdict is Verdict.STORED
    assert receiver.take_file(write("two.dcm", second)).verdict is Verdict.KNOWN
    assert len(stored(spool)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"PatientName": "Doe^John"},
        {"SmallestImagePixelValue": -6},
        {"PixelData": bytes(reversed(range(32)))},
        {"StudyDescription": ""},
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_any_other_value_is_other_content(
    receiver: Receiver, spool: Spool, write: Callable[..., Path], changed: dict[str, object], syntax: str
) -> None:
    receiver.take_file(write("one.dcm"))
    assert receiver.take_file(write("two.dcm", syntax, **changed)).verdict is Verdict.KEPT_FIRST
    assert len(stored(spool)) == 1


def test_replacing_there_and_back(catalog: Catalog, spool: Spool, write: Callable[..., Path]) -> None:
    receiver = Receiver(catalog, spool, "replace")
    one, two = write("one.dcm"), write("two.dcm", PatientName="Doe^John")
    verdicts = [receiver.take_file(file).verdict for file in (one, two, one, one)]
    assert verdicts == [Verdict.STORED, Verdict.REPLACED, Verdict.REPLACED, Verdict.KNOWN]
    (kept,) = stored(spool)
    content = spool.file(str(kept.relative_to(spool.folder))).read_bytes()
    assert dcmread(BytesIO(content)).PatientName == "Doe^Jane"


def test_a_file_in_quarantine_outlives_a_conflict(
    receiver: Receiver, catalog: Catalog, spool: Spool, write: Callable[..., Path]
) -> None:
    receiver.take_file(write("other.dcm", SOPInstanceUID="2.25.6"))
    stray = write("stray.dcm", StudyInstanceUID="2.25.2")
    assert receiver.take_file(stray).verdict is Verdict.QUARANTINED
    assert receiver.take_file(write("one.dcm")).verdict is Verdict.STORED
    assert receiver.take_file(stray).verdict is Verdict.KEPT_FIRST
    assert len(stored(spool)) == 3
    assert all(spool.holds(path) for path, _, _ in catalog.receipts.files())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the prefix DICM is missing"),
        (b"\0" * 128 + b"DICM", r"no Transfer Syntax UID \(0002,0010\)"),
        (b"\0" * 128 + b"DICM\x02\x00\x10\x00UI", "ends within its File Meta Information"),
        (b"\0" * 128 + b"DICM\x02\x00\x10\x00UI\x04\x001.2\0", "private or unknown"),
    ],
)
def test_what_is_no_dicom_file_is_refused(receiver: Receiver, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(Refused, match=reason):
        receiver.take_file(tmp_path / "x")


def test_a_missing_file_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        receiver.take_file(tmp_path / "nowhere")


def test_the_real_series_without_uids_is_refused_with_the_reason(receiver: Receiver, spool: Spool) -> None:
    files = sorted((REAL / "ct-abdomen-no-series-uid").glob("*.dcm"))
    if not files:
        pytest.skip(f"real CT and MR series are not there: {REAL}")
    for file in files[:3]:
        with pytest.raises(Refused, match=r"SOP Class UID .* and SOP Instance UID .* are missing"):
            receiver.take_file(file)
    assert not stored(spool)


def test_real_values_that_break_the_rules_do_no_harm(
    receiver: Receiver, catalog: Catalog, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom import config

    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    file = write(StudyDate="March 2020", PatientID="P" * 100, StudyInstanceUID="2.25.01", AccessionNumber="A" * 40)
    monkeypatch.undo()
    assert receiver.take_file(file).verdict is Verdict.STORED
    (entity,) = catalog.lookup.entities(1)  # type: ignore[arg-type]
    assert entity.attributes["00100020"]["Value"] == ["P" * 100]
    assert entity.attributes["00080020"]["Value"] == ["March 2020"]


def test_a_damaged_file_is_noticed(receiver: Receiver, spool: Spool, write: Callable[..., Path]) -> None:
    receiver.take_file(write())
    (kept,) = stored(spool)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(Damaged, match=r"SHA-256 differs|cannot be read"):
        spool.read(str(kept.relative_to(spool.folder)))


def test_a_full_disk_leaves_nothing_behind(
    receiver: Receiver, spool: Spool, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = write()
    with monkeypatch.context() as patch:
        patch.setattr("dicom_scp.spool.os.fsync", full)
        with pytest.raises(Transient, match="No space left"):
            receiver.take_file(file)
    assert not stored(spool)
    assert not list((spool.folder / "tmp").iterdir())
    assert receiver.take_file(file).verdict is Verdict.STORED


def test_files_of_dead_writers_are_swept(spool: Spool) -> None:
    old, new = spool.folder / "tmp" / "old", spool.folder / "tmp" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    Spool(spool.folder)
    assert not old.exists()
    assert new.exists()
