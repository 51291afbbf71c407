"""The page over HTTP: what it lists, what it says, and what it never does."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from pydicom import Dataset, dcmread

Pages = Any
"""The running node of conftest.py."""
CURRENT = "20240318"


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(name))]


def unique(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def study_links(text: str) -> list[str]:
    return unique([link for link in Elements(text).values("href") if link.startswith("/ui/studies/")])


@pytest.fixture(scope="module")
def headers(pages: Pages) -> dict[str, Dataset]:
    """Study Instance UID to a header of the study."""
    found = (dcmread(file, stop_before_pixels=True) for file in pages.files.values())
    return {str(one.StudyInstanceUID): one for one in found}


@pytest.fixture(scope="module")
def current(headers: dict[str, Dataset]) -> str:
    """Study Instance UID of the study of a patient who has a prior one."""
    return next(uid for uid, one in headers.items() if one.StudyDate == CURRENT)


@pytest.fixture(scope="module")
def others(pages: Pages, current: str, headers: dict[str, Dataset]) -> list[dict[str, Any]]:
    """Hits for the study that are other patients', best first."""
    hits = pages.get(f"/studies/{current}/similar?limit=12").json()["hits"]
    own = {uid for uid, one in headers.items() if one.PatientID == headers[current].PatientID}
    return [hit for hit in hits if hit["study_instance_uid"] not in own]


@pytest.fixture(scope="module")
def all_pages(pages: Pages, current: str) -> dict[str, str]:
    paths = ["/", "/?patient=nobody", f"/ui/studies/{current}", f"/ui/studies/{pages.hostile_study}", "/ui/status"]
    paths += [f"/ui/compare?a={current}&b={pages.hostile_study}", "/ui/studies/1.2.404", "/login"]
    return {path: pages.get(path).text for path in paths}


def test_studies_are_listed_and_looked_for(pages: Pages, headers: dict[str, Dataset]) -> None:
    everything = study_links(pages.get("/").text)
    assert len(everything) == len(headers) + 2
    of_one = pages.get("/?patient=demo-002&modality=CT&date_from=2024-01-24", **{"HX-Request": "true"}).text
    assert "<html" not in of_one
    (found,) = study_links(of_one)
    assert found in everything
    assert study_links(pages.get("/?patient=demo-002&modality=MR").text) == []
    assert pages.get("/?page=0").status_code == 422


def test_a_study_stands_beside_its_priors_and_what_is_like_it(
    pages: Pages, current: str, headers: dict[str, Dataset], others: list[dict[str, Any]]
) -> None:
    page = pages.get(f"/ui/studies/{current}").text
    own_part, others_part = page.split('id="analogues"')
    assert others
    assert study_links(others_part) == [f"/ui/studies/{hit['study_instance_uid']}" for hit in others]
    priors = [link.rpartition("/")[2] for link in study_links(own_part.partition('id="priors"')[2])]
    assert len(priors) == 2
    assert {headers[uid].PatientID for uid in priors} == {headers[current].PatientID}
    dates = [headers[uid].StudyDate for uid in priors]
    assert dates == sorted(dates, reverse=True)
    assert "12 months earlier" in own_part
    pictures = [address for address in Elements(page).values("src") if "/rendered" in address]
    assert len(pictures) == 2 * (len(priors) + len(others))
    for picture in pictures:
        answer = pages.get(picture)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")


def comparison(pages: Pages, query: str) -> dict[str, Any]:
    page = pages.get(f"/ui/compare?{query}")
    assert page.status_code == 200, page.text
    data = re.search(r'id="comparison">(.*?)</script>', page.text, re.DOTALL)
    assert data is not None
    found: dict[str, Any] = json.loads(data[1])
    return found


def test_a_comparison_lists_the_slices_of_both_from_head_to_feet(
    pages: Pages, current: str, others: list[dict[str, Any]]
) -> None:
    found = next(hit for hit in others if hit["study_instance_uid"] != pages.hostile_study)
    data = comparison(pages, f"a={current}&b={found['series'][0]['series_instance_uid']}")
    for side in data["sides"]:
        files = [pages.files[urlsplit(url).path.rpartition("/")[2]] for url, _ in side["slices"]]
        heights = [float(dcmread(file, stop_before_pixels=True).ImagePositionPatient[2]) for file in files]
        assert heights == sorted(heights, reverse=True)
        assert [mm for _, mm in side["slices"]] == pytest.approx(heights)
        assert side["towards"] == ["L", "P"]
    assert data["window"] == [40, 400]
    assert [level["similarity"] for level in data["levels"]] == sorted(
        (level["similarity"] for level in data["levels"]), reverse=True
    )
    for one, two in zip(data["anchors"], data["anchors"][1:], strict=False):
        assert one[0] < two[0]
        assert one[1] < two[1]


def test_two_hits_are_compared_and_one_alone_is_not(pages: Pages, current: str) -> None:
    series = unique(re.findall(r'name="pick" value="([0-9.]+)"', pages.get(f"/ui/studies/{current}").text))
    data = comparison(pages, f"pick={series[0]}&pick={series[-1]}")
    assert [series_of(side) for side in data["sides"]] == [series[0], series[-1]]
    alone = pages.get(f"/ui/compare?pick={series[0]}")
    assert (alone.status_code, "Choose two" in alone.text) == (422, True)


def series_of(side: dict[str, Any]) -> str:
    return str(side["slices"][0][0].split("/")[4])


def test_values_are_those_of_the_file(pages: Pages) -> None:
    for uid, file in list(pages.files.items())[::40]:
        one = dcmread(file)
        answer = pages.get(f"/ui/values/{one.StudyInstanceUID}/{one.SeriesInstanceUID}/{uid}")
        assert answer.status_code == 200, answer.text
        said = json.loads(answer.headers["Picture"])
        values = np.frombuffer(answer.content, "<i2").reshape(said["rows"], said["columns"])
        expected = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        padding = one.get("PixelPaddingValue")
        known = np.ones(expected.shape, bool) if padding is None else one.pixel_array != padding
        assert np.allclose((values * said["slope"] + said["intercept"])[known], expected[known], atol=1e-3)
        assert said["pixel_mm"] == pytest.approx([float(mm) for mm in one.PixelSpacing])
    missing = pages.get(f"/ui/values/{one.StudyInstanceUID}/{one.SeriesInstanceUID}/1.2.404")
    assert missing.status_code == 404


def test_pages_load_nothing_from_elsewhere_and_hold_no_code(pages: Pages, all_pages: dict[str, str]) -> None:
    for path, text in all_pages.items():
        elements = Elements(text)
        for tag, attributes in elements.found:
            assert "style" not in attributes, path
            assert not [name for name in attributes if name.startswith("on")], path
            if tag == "script" and attributes.get("type") != "application/json":
                assert attributes["src"], path
            assert tag != "style", path
        viewers = [link for link in elements.values("href") if link.startswith("https://ohif.invalid/viewer?S=")]
        for address in {*elements.values("src"), *elements.values("href"), *elements.values("action")} - {*viewers}:
            assert re.match(r"/(?!/)|[#?]", address), (path, address)
        for address in {*elements.values("src"), *elements.values("href")}:
            if address.startswith("/ui/static/"):
                assert pages.get(address.partition("#")[0]).status_code == 200
        policy = pages.get(path).headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert pages.get(path).headers["Cache-Control"] == "no-store"


def test_stored_text_stays_text(all_pages: dict[str, str], pages: Pages) -> None:
    seen = 0
    for path, text in all_pages.items():
        elements = Elements(text)
        assert not [tag for tag, _ in elements.found if tag in ("b>x", "i")], path
        assert "<script>document" not in text, path
        assert not [one for one in elements.values("src") if one == "x"], path
        seen += "&lt;script&gt;document.title" in text
    assert seen >= 3
    assert "&lt;b&gt;slices" in pages.get("/ui/status").text


def test_what_goes_wrong_is_said_in_a_page(pages: Pages) -> None:
    for path, status in (
        ("/ui/studies/1.2.404", 404),
        ("/ui/compare?a=1.2.404&b=1.2.405", 404),
        ("/ui/compare?a=x", 422),
    ):
        answer = pages.get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
        assert "To the studies" in answer.text
    assert pages.get("/ui/static/0/nothing.css").status_code == 404


def test_forms_are_taken_from_own_pages_only(pages: Pages) -> None:
    path = f"/ui/series/{pages.parked_series}/retry"
    foreign = [{}, {"Origin": "https://evil.invalid"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}]
    foreign += [{"Origin": pages.address, "Sec-Fetch-Site": "cross-site"}]
    for headers in foreign:
        assert pages.post(path, **headers).status_code == 403, headers
    assert pages.parked_series in pages.get("/ui/status").text
    unknown = pages.post("/ui/series/1.2.404/retry", Origin=pages.address)
    assert unknown.status_code == 409
