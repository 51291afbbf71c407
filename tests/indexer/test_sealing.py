"""Sealed files and values: what was written comes back, and any change of any byte is noticed."""

import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from config.errors import ConfigError
from indexer.errors import Damaged
from indexer.keyring import KEYRING, make_keyring, new_key, read_key, read_keyring, write_keyring
from indexer.nifti import read_nifti
from indexer.sealing import SEGMENT_BYTES, SealedFile, SealedFolder, Vault, folder_of, is_sealed, plain_size

SIZES = (0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 17)


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(range(32)))


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def sealed(vault: Vault, path: Path, plain: bytes, pieces: int = 1000) -> SealedFile:
    file = SealedFile(path, vault)
    with file.open("wb") as stream:
        for start in range(0, len(plain), pieces):
            stream.write(plain[start : start + pieces])
    return file


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_comes_back(vault: Vault, tmp_path: Path, size: int) -> None:
    plain = content(size)
    file = sealed(vault, tmp_path / "file", plain)
    assert file.read_bytes() == plain
    assert plain_size(file.stat().st_size) == size
    assert is_sealed(file.path)
    with file.open("rb") as stream:
        for start in (0, size // 2, max(size - 3, 0)):
            stream.seek(start)
            assert stream.read(5) == plain[start : start + 5]
        assert stream.seek(0, io.SEEK_END) == size


def test_every_changed_byte_and_every_cut_is_noticed(vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = sealed(vault, path, content(2 * SEGMENT_BYTES + 100)) and path.read_bytes()
    step = SEGMENT_BYTES + 16
    places = [*range(48), 32 + step - 1, 32 + step, 32 + 2 * step - 16, len(whole) - 17, len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            SealedFile(path, vault).read_bytes()
    for length in (0, 31, 32, 40, 32 + step, 32 + 2 * step, 32 + 2 * step + 16, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            SealedFile(path, vault).read_bytes()
    swapped = whole[:32] + whole[32 + step : 32 + 2 * step] + whole[32 : 32 + step] + whole[32 + 2 * step :]
    for changed in (swapped, whole + b"\0", whole + whole[32:]):
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            SealedFile(path, vault).read_bytes()


def test_a_damaged_segment_does_not_keep_others_from_being_read(vault: Vault, tmp_path: Path) -> None:
    plain = content(2 * SEGMENT_BYTES)
    file = sealed(vault, tmp_path / "file", plain)
    changed = bytearray(file.path.read_bytes())
    changed[-1] ^= 1
    file.path.write_bytes(changed)
    with file.open("rb") as stream:
        assert stream.read(SEGMENT_BYTES) == plain[:SEGMENT_BYTES]
        with pytest.raises(Damaged):
            stream.read(1)


def test_a_file_that_was_not_finished_is_none(vault: Vault, tmp_path: Path) -> None:
    file = SealedFile(tmp_path / "file", vault)

    def broken_off() -> None:
        with file.open("wb") as stream:
            stream.write(content(SEGMENT_BYTES + 5))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        broken_off()
    with pytest.raises(Damaged):
        file.read_bytes()


def test_another_key_opens_nothing(vault: Vault, tmp_path: Path) -> None:
    file = sealed(vault, tmp_path / "file", b"plain")
    other = Vault(bytes(32))
    for changed in (file.path.read_bytes(), file.path.read_bytes().replace(vault.key_id, other.key_id)):
        file.path.write_bytes(changed)
        with pytest.raises(Damaged):
            SealedFile(file.path, other).read_bytes()
    with pytest.raises(Damaged):
        other.unseal(vault.seal(b"value"))


def test_the_same_is_never_sealed_twice_the_same(vault: Vault, tmp_path: Path) -> None:
    files = [sealed(vault, tmp_path / name, content(300)).path.read_bytes() for name in "ab"]
    assert files[0][32:] != files[1][32:]
    assert vault.seal(b"value") != vault.seal(b"value")


def test_values(vault: Vault) -> None:
    value = content(512)
    kept = vault.seal(value)
    assert vault.unseal(kept) == value
    assert len(kept) % 2 == 1  # a plain embedding is of even length
    for place in range(len(kept)):
        with pytest.raises(Damaged):
            vault.unseal(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
    for cut in (b"", kept[:1], kept[:-1], value):
        with pytest.raises(Damaged):
            vault.unseal(cut)


def test_a_folder_of_sealed_files(vault: Vault, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, vault)
    assert isinstance(folder, SealedFolder)
    assert folder_of(tmp_path, None) == tmp_path
    array = np.arange(100_000, dtype=np.float32)
    with (folder / "array.npy").open("wb") as stream:
        np.save(stream, array)
    with (folder / "array.npy").open("rb") as stream:
        assert np.array_equal(np.load(stream), array)


def test_a_sealed_dicom_file_is_parsed(vault: Vault, tmp_path: Path) -> None:
    plain = io.BytesIO()
    written = Dataset()
    written.PatientID, written.PixelData = "somebody", bytes(2 * SEGMENT_BYTES)
    written["PixelData"].VR = "OW"
    written.save_as(plain, implicit_vr=False, little_endian=True, enforce_file_format=False)
    file = sealed(vault, tmp_path / "file", plain.getvalue())
    with file.open("rb") as stream:
        assert dcmread(stream, force=True) == written


def test_the_administrators_key_can_be_exchanged(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(new_key() + "\n")
    old, new = read_key(tmp_path / "old"), read_key(tmp_path / "new")
    assert read_keyring(tmp_path) is None
    made = make_keyring(old, is_complete=True)
    write_keyring(tmp_path, made, is_new=True)
    write_keyring(tmp_path, make_keyring(new, is_complete=True), is_new=True)  # somebody else was quicker
    held = read_keyring(tmp_path)
    assert held == made
    kept = held.unlock(old).seal(b"value")
    write_keyring(tmp_path, held.rewrapped(old, new), is_new=False)
    again = read_keyring(tmp_path)
    assert again is not None
    assert again.unlock(new).unseal(kept) == b"value"
    with pytest.raises(ConfigError, match="got another"):
        again.unlock(old)
    assert (tmp_path / KEYRING).stat().st_mode & 0o077 == 0
    assert [one.name for one in tmp_path.glob(f"{KEYRING}*")] == [KEYRING]


@pytest.mark.parametrize("text", ["", "c2hvcnQ=", "not base64 at all", "ü" * 44])
def test_what_is_no_key_is_not_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match="expected 32 bytes as base64") as caught:
        read_key(tmp_path / "key")
    assert not text or text not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "nowhere")


def test_a_damaged_keyring_is_said(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"format": 2}'):
        (tmp_path / KEYRING).write_text(text)
        with pytest.raises(Damaged):
            read_keyring(tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_sealed_nifti_file_is_read(vault: Vault, tmp_path: Path, suffix: str) -> None:
    plain = tmp_path / f"plain{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(4096, dtype=np.float32).reshape(16, 16, 16)), str(plain))
    file = sealed(vault, tmp_path / f"sealed{suffix}", plain.read_bytes())
    assert np.array_equal(read_nifti(file, "CT").voxels, read_nifti(plain, "CT").voxels)
