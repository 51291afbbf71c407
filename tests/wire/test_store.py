import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, KeyObjectSelectionDocumentStorage, Verification

from dicom_scp.contexts import STORAGE_TRANSFER_SYNTAXES, storage_sop_classes
from dicom_scp.part10 import split_file
from indexer.catalog.lookup import Level

Running = Callable[..., AbstractContextManager[Any]]
Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""


def test_an_acknowledged_instance_is_on_the_disk_byte_for_byte(
    node: Node, peer: Factory, instance: Factory
) -> None:
    dataset = instance()
    sent = encode(dataset, False, True)
    (status,) = peer(node, "SCANNER").send(dataset)
    assert status.Status == 0
    (file,) = node.files()
    assert split_file(file.read_bytes()) == (ExplicitVRLittleEndian, sent)
    stored = dcmread(file)
    assert stored.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert stored.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert node.catalog.lookup.instance_path(dataset.SOPInstanceUID) == str(file.relative_to(node.spool.folder))


def test_every_real_transfer_syntax_is_taken_as_it_is(
    node: Node, peer: Factory, real_series: list[list[Path]]
) -> None:
    files = [series[0] for series in real_series]
    statuses = peer(node).send(*(dcmread(file) for file in files))
    assert [status.Status for status in statuses] == [0] * len(files)
    syntaxes = {dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in files}
    kept = {dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in node.files()}
    assert kept == syntaxes
    assert len(syntaxes) > 2
    assert len(node.files()) == len(files)


@pytest.mark.parametrize("syntax", STORAGE_TRANSFER_SYNTAXES, ids=lambda uid: uid.keyword)
def test_every_transfer_syntax_is_offered(node: Node, peer: Factory, syntax: str) -> None:
    with peer(node).associated([(CTImageStorage, [syntax])]) as association:
        assert association.is_established
        assert [str(context.transfer_syntax[0]) for context in association.accepted_contexts] == [syntax]


def test_deflated_is_not_offered(node: Node, peer: Factory) -> None:
    with peer(node).associated([(CTImageStorage, ["1.2.840.10008.1.2.1.99"])]) as association:
        assert not association.accepted_contexts


def test_every_storage_class_is_stored(node: Node, peer: Factory, instance: Factory) -> None:
    classes = storage_sop_classes()
    for start in range(0, len(classes), 120):
        datasets = [
            instance(SOPClassUID=uid, SeriesInstanceUID=f"2.25.{9000 + start + i}", PixelData=None)
            for i, uid in enumerate(classes[start : start + 120])
        ]
        assert {status.Status for status in peer(node).send(*datasets)} == {0}
    assert len(node.files()) == len(classes)
    assert KeyObjectSelectionDocumentStorage in classes


def test_private_storage_classes_are_taken_on_request(
    running_node: Running, peer: Factory, instance: Factory
) -> None:
    private = "1.2.826.0.1.3680043.9.9999.1"
    with running_node({"dicom.private_storage_sop_classes": [private]}) as node:
        (status,) = peer(node).send(instance(SOPClassUID=private))
        assert status.Status == 0
        with peer(node).associated([("1.2.826.0.1.3680043.9.9999.2", [ExplicitVRLittleEndian])]) as association:
            assert not association.accepted_contexts


@pytest.mark.parametrize("called", ["PACSIMILE", "SIMILAR"])
def test_both_ae_titles_answer_to_verification(node: Node, peer: Factory, called: str) -> None:
    with peer(node).associated([(Verification, [ImplicitVRLittleEndian])], called) as association:
        assert association.send_c_echo().Status == 0


def test_another_called_ae_title_is_rejected(node: Node) -> None:
    entity = AE()
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", node.port, ae_title="SOMEBODY")
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 7  # called AE title not recognised (PS3.8 9.3.4)


def test_the_same_instance_again_changes_nothing(node: Node, peer: Factory, instance: Factory) -> None:
    dataset = instance()
    assert [status.Status for status in peer(node).send(dataset, dataset)] == [0, 0]
    assert len(node.files()) == 1
    assert node.catalog.progress.counts().conflicts == 0


def test_the_same_content_in_another_encoding_changes_nothing(node: Node, peer: Factory, instance: Factory) -> None:
    dataset = instance()
    reencoded = dcmread(_as_file(dataset))
    reencoded.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    reencoded.save_as(buffer, implicit_vr=True)
    buffer.seek(0)
    implicit = dcmread(buffer)
    compressed = dcmread(_as_file(dataset))
    compressed.compress(RLELossless, generate_instance_uid=False)
    assert [status.Status for status in peer(node).send(dataset, implicit, compressed)] == [0, 0, 0]
    assert len(node.files()) == 1
    assert node.catalog.progress.counts().conflicts == 0


def test_other_content_under_a_known_uid_keeps_the_first(node: Node, peer: Factory, instance: Factory) -> None:
    first = instance(SOPInstanceUID="2.25.5", pixel_level=100)
    other = instance(SOPInstanceUID="2.25.5", pixel_level=900)
    one, two = peer(node).send(first, other)
    assert one.Status == 0
    assert (two.Status, two.ErrorComment) == (0x0111, "other content is stored under this SOP Instance UID")
    (file,) = node.files()
    assert dcmread(file).PixelData == first.PixelData
    assert node.catalog.progress.counts().conflicts == 1


def test_other_content_under_a_known_uid_replaces_on_request(
    running_node: Running, peer: Factory, instance: Factory
) -> None:
    with running_node({"storage.on_conflict": "replace"}) as node:
        first = instance(SOPInstanceUID="2.25.5", pixel_level=100)
        other = instance(SOPInstanceUID="2.25.5", pixel_level=900)
        assert [status.Status for status in peer(node).send(first, other)] == [0, 0]
        (file,) = node.files()
        assert dcmread(file).PixelData == other.PixelData
        assert node.catalog.lookup.instance_path("2.25.5") == str(file.relative_to(node.spool.folder))


def test_missing_study_and_series_uids_are_kept_aside(node: Node, peer: Factory, instance: Factory) -> None:
    (status,) = peer(node).send(instance(StudyInstanceUID=None, SeriesInstanceUID=None))
    assert status.Status == 0xB007
    assert status.ErrorComment.startswith("Study Instance UID (0020,000D) and Series Instance UID")
    assert len(node.files()) == 1
    ((reason, count),) = node.catalog.progress.quarantined()
    assert count == 1
    assert reason == "Study Instance UID (0020,000D) and Series Instance UID (0020,000E) are missing"


def test_a_series_that_belongs_to_another_study_is_kept_aside(node: Node, peer: Factory, instance: Factory) -> None:
    stray = instance(StudyInstanceUID="2.25.2")
    assert [status.Status for status in peer(node).send(instance(), stray, stray)] == [0, 0xB007, 0xB007]
    assert node.catalog.progress.counts().quarantined == 1
    assert len(node.files()) == 2


def test_an_instance_without_pixels_is_taken(node: Node, peer: Factory, instance: Factory) -> None:
    assert peer(node).send(instance(PixelData=b""))[0].Status == 0


def _as_file(dataset: Dataset) -> BytesIO:
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def _send_encoded(association: Association, encoded: bytes, sop_instance_uid: str, syntax: str) -> C_STORE:
    """C-STORE of bytes that the library would not send by itself."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = CTImageStorage
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(encoded)
    context = next(c for c in association.accepted_contexts if c.transfer_syntax[0] == syntax)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return response


@pytest.mark.parametrize(
    "cut",
    [lambda b: b[:-1], lambda b: b[:201], lambda b: b[:-100], lambda _: b"\xff" * 500, lambda b: b[:8]],
    ids=["pixels", "header", "more pixels", "noise", "nothing"],
)
def test_what_cannot_be_read_is_refused(
    node: Node, peer: Factory, instance: Factory, cut: Callable[[bytes], bytes]
) -> None:
    dataset = instance()
    encoded = cut(encode(dataset, False, True))
    with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        response = _send_encoded(association, encoded, dataset.SOPInstanceUID, ExplicitVRLittleEndian)
        assert response.Status == 0xC000
        assert response.ErrorComment
        assert association.send_c_store(dataset).Status == 0  # the association goes on
    assert len(node.files()) == 1


@pytest.mark.parametrize("uid", ["2.25.1/../../../etc/passwd", "..\\x", "1.2.3 4", "abc"])
def test_a_uid_that_is_a_path_is_refused(node: Node, peer: Factory, instance: Factory, uid: str) -> None:
    dataset = instance()
    raw = encode(dataset, False, True).replace(
        b"\x08\x00\x18\x00UI"
        + len(_padded(dataset.SOPInstanceUID)).to_bytes(2, "little")
        + _padded(dataset.SOPInstanceUID),
        b"\x08\x00\x18\x00UI" + len(_padded(uid)).to_bytes(2, "little") + _padded(uid),
    )
    with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        response = _send_encoded(association, raw, "2.25.77", ExplicitVRLittleEndian)
    assert response.Status == 0xC000
    assert not node.files()
    assert not [path for path in node.spool.folder.parent.rglob("*") if "passwd" in path.name]


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def test_a_data_set_of_another_instance_than_announced_is_refused(
    node: Node, peer: Factory, instance: Factory
) -> None:
    with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        encoded = encode(instance(), False, True)
        response = _send_encoded(association, encoded, generate_uid(), ExplicitVRLittleEndian)
    assert response.Status == 0xA900
    assert not node.files()


def test_a_data_set_that_is_too_long_is_refused_and_not_held(
    running_node: Running, peer: Factory, instance: Factory
) -> None:
    with running_node({"dicom.max_object_mib": 1}) as node:
        large = instance(Rows=1024, Columns=1024, PixelData=b"\0" * (2 << 20))
        one, two = peer(node).send(large, instance())
        assert (one.Status, one.ErrorComment) == (0xA700, "data set of more than 1 MiB")
        assert two.Status == 0
        assert len(node.files()) == 1


def test_a_full_disk_is_out_of_resources_and_leaves_nothing(
    node: Node, peer: Factory, instance: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dicom_scp.spool.os.fsync", full)
        (status,) = peer(node).send(instance())
    assert (status.Status, status.ErrorComment) == (
        0xA700,
        "the instance cannot be stored: No space left on device",
    )
    assert not [path for path in node.spool.folder.rglob("*") if path.is_file() and path.parent.name != "locks"]


def test_a_catalog_that_fails_is_out_of_resources_and_leaves_no_file(
    node: Node, peer: Factory, instance: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.errors import Transient

    def locked(*_: object, **__: object) -> None:
        raise Transient("the catalog cannot be written: database is locked")

    dataset = instance()
    with monkeypatch.context() as patch:
        patch.setattr(node.catalog.receipts, "enter", locked)
        (status,) = peer(node).send(dataset)
    assert status.Status == 0xA700
    assert not node.files()
    assert peer(node).send(dataset)[0].Status == 0


def test_a_lost_file_is_stored_again(node: Node, peer: Factory, instance: Factory) -> None:
    dataset = instance()
    peer(node).send(dataset)
    node.files()[0].unlink()
    assert peer(node).send(dataset)[0].Status == 0
    assert dcmread(node.files()[0]).SOPInstanceUID == dataset.SOPInstanceUID


def test_many_associations_send_the_same_instances_at_once(node: Node, peer: Factory, instance: Factory) -> None:
    datasets = [instance(InstanceNumber=i) for i in range(12)]
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.extend(s.Status for s in peer(node).send(*datasets)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 48
    assert len(node.files()) == 12
    assert len(list(node.catalog.lookup.entities(Level.IMAGE))) == 12


def test_a_series_is_being_sent_while_its_association_is_open(node: Node, peer: Factory, instance: Factory) -> None:
    with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        association.send_c_store(instance())
        assert node.server.being_sent() == {"2.25.11"}
        assert node.catalog.progress.settle(0.0, node.server.being_sent()) == 0
    _until(lambda: not node.server.being_sent())
    with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        association.send_c_store(instance())
        association.abort()
    _until(lambda: not node.server.being_sent())
    assert node.catalog.progress.settle(0.0, node.server.being_sent()) == 1


def test_no_thread_outlives_an_abort(node: Node, peer: Factory, instance: Factory) -> None:
    def serving() -> int:
        return sum(thread.name != "incoming" for thread in threading.enumerate())

    before = serving()
    for _ in range(5):
        with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
            association.send_c_store(instance())
            association.abort()
    _until(lambda: serving() <= before)


def test_associations_beyond_the_limit_are_rejected(running_node: Running, peer: Factory) -> None:
    with running_node({"dicom.max_associations": 1}) as node:
        contexts = [(Verification, [ImplicitVRLittleEndian])]
        with peer(node).associated(contexts) as one, peer(node).associated(contexts) as two:
            assert one.is_established
            assert two.is_rejected


def test_a_stopping_server_lets_an_association_finish(
    running_node: Running, peer: Factory, instance: Factory
) -> None:
    with running_node() as node:
        with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
            stopping = threading.Thread(target=node.server.stop, args=(60.0,))
            stopping.start()
            time.sleep(0.2)
            assert association.send_c_store(instance()).Status == 0
        stopping.join(60.0)
        assert not stopping.is_alive()
        assert len(node.files()) == 1


def test_a_stopping_server_aborts_what_does_not_finish(running_node: Running, peer: Factory) -> None:
    contexts = [(Verification, [ImplicitVRLittleEndian])]
    with running_node() as node, peer(node).associated(contexts) as association:
        node.server.stop(0.1)
        _until(lambda: not association.is_established)


def test_a_pdu_that_claims_to_be_huge_ends_the_association(node: Node, peer: Factory) -> None:
    with peer(node).associated([(Verification, [ImplicitVRLittleEndian])]) as association:
        association.dul.socket.socket.sendall(b"\x04\x00\xff\xff\xff\xf0" + b"x" * 64)
        _until(lambda: not association.is_established)
    with peer(node).associated([(Verification, [ImplicitVRLittleEndian])]) as association:
        assert association.send_c_echo().Status == 0


def test_jpeg_2000_is_stored_compressed(node: Node, peer: Factory, real_series: list[list[Path]]) -> None:
    compressed = [
        file
        for series in real_series
        for file in series[:1]
        if dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID == JPEG2000Lossless
    ]
    if not compressed:
        pytest.skip("no real series in JPEG 2000")
    peer(node).send(dcmread(compressed[0]))
    assert split_file(node.files()[0].read_bytes())[1] == split_file(compressed[0].read_bytes())[1]


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
