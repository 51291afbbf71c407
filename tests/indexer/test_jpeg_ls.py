import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, JPEGLSNearLossless

from indexer import headers, jpeg_ls


def compressed(bits_stored: int, *, signed: bool, near: int = 0) -> Dataset:
    bits = 8 if bits_stored <= 8 else 16
    least, greatest = (-(1 << (bits_stored - 1)), 1 << (bits_stored - 1)) if signed else (0, 1 << bits_stored)
    ramp = np.linspace(least, greatest - 1, 40 * 30).reshape(40, 30)
    image = Dataset()
    image.file_meta = Dataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, "2.25.1"
    values = ramp.astype(f"{'i' if signed else 'u'}{bits // 8}")
    image.set_pixel_data(values, "MONOCHROME2", bits_stored, generate_instance_uid=False)
    image.compress(JPEGLSNearLossless if near else JPEGLSLossless, jls_error=near, generate_instance_uid=False)
    return image


@pytest.mark.parametrize(
    ("bits_stored", "near", "signed"),
    [(8, 0, False), (12, 0, False), (16, 0, False), (12, 3, False), (8, 0, True), (12, 0, True), (16, 0, True)],
)
def test_values_are_those_of_another_decoder(bits_stored: int, near: int, signed: bool) -> None:
    image = compressed(bits_stored, signed=signed, near=near)
    expected = pixel_array(image, raw=True, decoding_plugin="pyjpegls")
    jpeg_ls.register()
    decoded = pixel_array(image, raw=True, decoding_plugin=jpeg_ls.PLUGIN)
    assert decoded.dtype == expected.dtype
    assert np.array_equal(decoded, expected)


def test_real_slices_are_those_of_another_decoder(shared_dicom: Path) -> None:
    compared = 0
    for series in sorted(shared_dicom.iterdir()):
        files = sorted(series.iterdir())
        for path in (files[0], files[len(files) // 2], files[-1]):
            image = dcmread(path)
            if image.file_meta.TransferSyntaxUID in jpeg_ls.DECODER_DEPENDENCIES:
                decoded = [
                    pixel_array(image, raw=True, decoding_plugin=one) for one in (jpeg_ls.PLUGIN, "pyjpegls")
                ]
                assert decoded[0].dtype == decoded[1].dtype
                assert np.array_equal(*decoded)
                compared += 1
    assert compared > 10


def test_silence_lasts_until_the_last_thread_has_left() -> None:
    logger = logging.getLogger("pydicom")
    before = logger.handlers, logger.propagate, warnings.filters[:]
    second_is_in, first_has_left = threading.Event(), threading.Event()

    def second() -> tuple[bool, bool]:
        with headers.quiet():
            second_is_in.set()
            assert first_has_left.wait(60)
            warnings.warn("unheard", stacklevel=1)  # an error, were it heard
            return logger.propagate, logger.handlers == before[0]

    with ThreadPoolExecutor(1) as threads:
        with headers.quiet():
            silent = threads.submit(second)
            assert second_is_in.wait(60)
        first_has_left.set()
        assert silent.result() == (False, False)
    assert (logger.handlers, logger.propagate, warnings.filters[:]) == before
