"""Frames as pictures over HTTP: of a running node, and of files that archives really hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from indexer.errors import NotFound, Refused
from node.web.decoding import TranscoderPool
from node.web.rendering import Picture, Pictures, PictureType, Presentation, Window, WindowShape, encoded, grey

Factory = Callable[..., Any]


@dataclass
class Served:
    """A node that holds the phantoms, and their headers."""

    address: str
    slices: list[Dataset]

    def path(self, one: Dataset) -> str:
        return f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"

    def get(self, path: str, **more: Any) -> requests.Response:  # noqa: ANN401 - of requests
        return requests.get(self.address + path, timeout=60, **more)


@pytest.fixture(scope="module")
def served(start_shared_node: Factory, pacsimile: Factory, make_series: Factory) -> Served:
    node = start_shared_node("rendered")
    folder = make_series(1)
    assert pacsimile("ingest", folder, "--data-dir", node.data_dir, "--bundle", "tiny", "--no-index").status == 0
    return Served(f"http://127.0.0.1:{node.ports['http']}", [dcmread(f) for f in sorted(folder.rglob("*.dcm"))])


def decoded(answer: requests.Response) -> NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_a_window_shows_the_values_it_covers(served: Served) -> None:
    one = served.slices[len(served.slices) // 2]
    values = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
    for center, width in ((40, 400), (-600, 1500), (50, 2)):
        got = decoded(served.get(f"{served.path(one)}/rendered?window={center},{width},linear"))
        expected = np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
        assert got.shape == values.shape
        assert np.abs(got - expected).max() <= 1
        assert np.ptp(expected) > 100


def test_frame_one_is_the_instance_and_there_is_no_second(served: Served) -> None:
    one = served.slices[3]
    whole = served.get(f"{served.path(one)}/rendered")
    assert served.get(f"{served.path(one)}/frames/1/rendered").content == whole.content
    problem = served.get(f"{served.path(one)}/frames/2/rendered")
    assert (problem.status_code, problem.headers["Content-Type"]) == (404, "application/problem+json")
    assert problem.json()["code"] == "not-found"


def test_viewport_and_media_type(served: Served) -> None:
    path = f"{served.path(served.slices[0])}/rendered"
    png = served.get(f"{path}?viewport=100,30")
    assert png.headers["Content-Type"] == "image/png"
    assert decoded(png).shape == (30, 30)
    jpeg = served.get(f"{path}?quality=50", headers={"Accept": "image/webp, image/jpeg;q=0.9"})
    assert jpeg.headers["Content-Type"] == "image/jpeg"
    assert Image.open(BytesIO(jpeg.content)).format == "JPEG"
    assert served.get(path, headers={"Accept": "video/mp4"}).status_code == 406


@pytest.mark.parametrize(
    "query", ["window=1", "window=1,0", "window=1,nan", "window=1,2,cubic", "viewport=0,1", "viewport=9,9,9,9"]
)
def test_parameters_that_cannot_be_meant(served: Served, query: str) -> None:
    problem = served.get(f"{served.path(served.slices[0])}/rendered?{query}")
    assert (problem.status_code, problem.headers["Content-Type"]) == (400, "application/problem+json")


def test_who_has_it_is_not_sent_it_again(served: Served) -> None:
    path = f"{served.path(served.slices[0])}/rendered"
    first = served.get(path)
    assert "private" in first.headers["Cache-Control"]
    again = served.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = served.get(f"{path}?window=1,2", headers={"If-None-Match": first.headers["ETag"]})
    assert other.status_code == 200


def test_an_instance_of_another_series_is_not_there(served: Served) -> None:
    one = served.slices[0]
    path = served.path(one).replace(str(one.SeriesInstanceUID), "1.2.3")
    assert served.get(f"{path}/rendered").status_code == 404


class Folder:
    """Files under their own names."""

    def file(self, name: str) -> Path:
        return Path(name)


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    pool = TranscoderPool(2048)
    yield Pictures(Folder(), pool)  # type: ignore[arg-type]
    pool.close()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_small.dcm", (128, 128)),
        ("MR_small_bigendian.dcm", (64, 64)),
        ("MR_small_RLE.dcm", (64, 64)),
        ("JPEG2000.dcm", (1024, 256)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64)),
        ("image_dfl.dcm", (512, 512)),
        ("SC_rgb_rle_16bit.dcm", (100, 100, 3)),
        ("SC_ybr_full_422_uncompressed.dcm", (100, 100, 3)),
        ("examples_palette.dcm", (350, 800, 3)),
        ("liver_1frame.dcm", (512, 512)),
        ("rtdose.dcm", (10, 10)),
    ],
)
def test_whatever_an_archive_holds(pictures: Pictures, name: str, shape: tuple[int, ...]) -> None:
    file = str(get_testdata_file(name, download=False) or "")
    if not file:
        pytest.skip(f"{name} does not come with pydicom")
    shown = grey(pictures.picture(file, 1))
    assert shown.dtype == np.uint8
    assert shown.shape == shape
    assert shown.std() > 0
    assert Image.open(BytesIO(pictures.rendered(file, 1, Presentation()))).mode == (
        "L" if len(shape) == 2 else "RGB"
    )


@pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "MR_truncated.dcm", "JPEG-lossy.dcm"])
def test_what_is_no_image_or_damaged_is_refused(pictures: Pictures, name: str) -> None:
    with pytest.raises(Refused):
        pictures.picture(str(get_testdata_file(name, download=False)), 1)


def test_frames_of_many(pictures: Pictures) -> None:
    for name in ("rtdose.dcm", "rtdose_rle.dcm", "SC_rgb_rle_2frame.dcm"):
        file = str(get_testdata_file(name, download=False))
        values = dcmread(file).pixel_array
        for frame in (1, len(values)):
            got = pictures.picture(file, frame).values
            np.testing.assert_allclose(got, values[frame - 1], rtol=1e-6)
        with pytest.raises(NotFound):
            pictures.picture(file, len(values) + 1)


def test_tall_pixels_become_square() -> None:
    flat = Picture(np.zeros((10, 10), np.float32), Window(0, 1), (3.0, 1.0), False)
    png = encoded(grey(flat), Presentation(), flat.pixel_mm)
    assert Image.open(BytesIO(png)).size == (10, 30)
    jpeg = encoded(grey(flat), Presentation(viewport=(50, 60), media_type=PictureType.JPEG), flat.pixel_mm)
    assert Image.open(BytesIO(jpeg)).size == (20, 60)


def test_padding_is_black_also_where_low_is_white() -> None:
    values = np.array([[np.nan, 0.0, 100.0]], np.float32)
    window = Window(50, 100, WindowShape.LINEAR_EXACT)
    assert grey(Picture(values, window, (1, 1), is_inverted=True)).tolist() == [[0, 255, 0]]
    assert grey(Picture(values, window, (1, 1), is_inverted=False)).tolist() == [[0, 0, 255]]


def test_a_sigmoid_is_half_bright_at_its_center() -> None:
    values = np.array([[40.0, -1e9, 1e9]], np.float32)
    picture = Picture(values, Window(0, 1), (1, 1), False)
    assert grey(picture, Window(40, 400, WindowShape.SIGMOID)).tolist() == [[128, 0, 255]]


def test_real_series_are_shown_and_a_picture_is_remembered(shared_dicom: Path, pictures: Pictures) -> None:
    for folder in sorted(shared_dicom.iterdir()):
        file = sorted(folder.glob("*.dcm"))[0]
        first = pictures.picture(str(file), 1)
        assert grey(first).std() > 1, folder.name
        assert pictures.picture(str(file), 1) is first
