"""The page: what it lists, what it says, what it never does, and how a person uses it in Chromium."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

Factory = Callable[..., Any]
Pages = Any
Browser = Any
Comparison = Any
"""The running node, the browser and what it shows: see conftest.py."""
PATIENCE_S = 90.0
LOADED = "return [...document.images].filter((i) => i.complete && i.naturalWidth).length"
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
        assert "<script>alert" not in text, path
        assert not [one for one in elements.values("src") if one == "x"], path
        seen += "&lt;script&gt;alert(1)" in text
    assert seen >= 4
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


LINKED = """
const done = arguments[arguments.length - 1];
const script = [...document.querySelectorAll("link[rel=modulepreload]")].find((l) => l.href.endsWith("link.js"));
import(script.href).then(({ Link }) => {
  const link = new Link([[0, 100], [10, 130], [20, 140]]);
  const there = [-5, 0, 5, 15, 30].map((mm) => link.across(mm, 0));
  const back = there.map((mm) => link.across(mm, 1));
  link.hold(0, 107);
  done([there, back, link.offset, link.across(5, 0), link.across(122, 1), new Link([]).isPossible]);
});
"""


@pytest.mark.slow
def test_the_link_goes_there_and_back(pages: Pages, browser: Browser, current: str) -> None:
    browser.get(f"{pages.address}/ui/compare?a={current}&b={pages.hostile_study}")
    there, back, offset, held, held_back, is_possible = browser.execute_async_script(LINKED)
    assert there == [95, 100, 115, 135, 150]
    assert back == [-5, 0, 5, 15, 30]
    assert (offset, held, held_back) == (7, 122, 5)
    assert not is_possible


@pytest.mark.slow
def test_a_person_searches_compares_and_looks_after_the_node(
    pages: Pages,
    browser: Browser,
    screenshots: Path,
    wait_for: Factory,
    shown_comparison: Factory,
    note_timings: Factory,
) -> None:
    def keep(name: str) -> None:
        browser.save_screenshot(str(screenshots / f"{name}.png"))

    def rows() -> list[WebElement]:
        found: list[WebElement] = browser.find_elements(By.CSS_SELECTOR, "a.row")
        return found

    browser.get(pages.address + "/")
    fitting = pages.get("/?patient=demo-001").text.count('class="row"')
    assert 0 < fitting < len(rows())
    keep("search")
    browser.switch_to.active_element.send_keys("demo-001")
    wait_for(lambda: "patient=demo-001" in browser.current_url, PATIENCE_S, "the address says what is looked for")
    wait_for(lambda: len(rows()) == fitting, PATIENCE_S, "the list is narrowed while typing")
    assert browser.title == "Studies – Pacsimile"

    rows()[0].click()
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "a.pair"), PATIENCE_S, "hits")
    wait_for(lambda: browser.execute_script(LOADED) >= 4, PATIENCE_S, "key pictures")
    keep("hits")
    study_page = browser.current_url
    browser.find_elements(By.CSS_SELECTOR, "#related section")[-1].find_element(By.CSS_SELECTOR, "a.pair").click()
    shown = shown_comparison()
    assert all(count > 20 for count, _ in shown.shades())
    keep("compare")
    timings = {"load": browser.measures()}

    _scroll(shown)
    _change_the_window(shown)
    _step_through_matches(shown)
    timings["scroll"] = browser.measures()
    keep("compare-lung")
    browser.switch_to.active_element.send_keys("?")
    assert browser.find_element(By.TAG_NAME, "dialog").is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)

    browser.get(study_page)
    for box in browser.find_elements(By.NAME, "pick")[-2:]:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.click()
    browser.find_element(By.CSS_SELECTOR, ".picked button").click()
    shown = shown_comparison()
    assert "pick=" in browser.current_url
    assert all(count > 20 for count, _ in shown.shades())
    browser.resize(3840, 2160)
    shown.press(Keys.ARROW_DOWN)
    keep("compare-4k")
    browser.get(study_page)
    wait_for(lambda: browser.execute_script(LOADED) >= 4, PATIENCE_S, "key pictures")
    keep("hits-4k")

    browser.resize(1366, 768)
    browser.get(pages.address + "/ui/status")
    retry = browser.find_element(By.ID, f"retry-{pages.parked_series}")
    assert "expected <b>slices</b>, got none" in browser.find_element(By.ID, "now").text
    keep("status")
    retry.click()
    gone = lambda: not browser.find_elements(By.ID, f"retry-{pages.parked_series}")  # noqa: E731
    wait_for(gone, PATIENCE_S, "the series is parked no more")
    indexed = "//li[span='Waiting' or span='Indexing'][b!='0']"
    wait_for(lambda: not browser.find_elements(By.XPATH, indexed), 3 * PATIENCE_S, "it is indexed")
    assert gone()
    keep("status-retried")

    browser.get(f"{pages.address}/ui/studies/{pages.hostile_study}")
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("<script>alert(1)</script>")
    assert browser.complaints() == []
    note_timings(timings)
    print("compare view, ms:", timings)


def _scroll(shown: Comparison) -> None:
    """Keys and wheel move both sides; unlinked, one only; linked again, the distance is kept."""
    before = shown.slices()
    shown.press(Keys.HOME, *[Keys.ARROW_DOWN] * 4)
    assert shown.slices()[0] == 5
    shown.press(Keys.END)
    assert shown.slices()[0] == int(shown.views[0].get_attribute("aria-valuemax") or 0)
    assert shown.slices()[1] != before[1]
    shown.press(Keys.PAGE_DOWN, Keys.HOME)
    shown.press("l")
    left, right = shown.slices()
    shown.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert shown.slices() == [left, right + 2]
    assert shown.text("button.link span") == "Not linked"
    shown.press("l")
    assert "mm" in shown.text("button.link span")
    shown.turn_wheel(0, 200)
    shown.wait_for(lambda: shown.slices()[0] == left + 3, PATIENCE_S, "the wheel scrolls")
    assert shown.slices()[1] > right + 2


def _change_the_window(shown: Comparison) -> None:
    before = shown.shades()
    shown.press("2")
    assert shown.labels("window") == ["W 1500  L −600"] * 2
    lung = shown.shades()
    assert all(new[1] > old[1] + 5 for new, old in zip(lung, before, strict=True))
    shown.drag(1, 60, 40)
    changed = shown.labels("window")
    assert changed[0] == changed[1] != "W 1500  L −600"
    shown.press("1")
    assert shown.labels("window") == ["W 400  L 40"] * 2
    shown.press("2")


def _step_through_matches(shown: Comparison) -> None:
    assert shown.text("output.match").startswith("match 1 of ")
    count = int(shown.text("output.match").split(" of ")[1].split(" ")[0])
    shown.press("p")
    last = shown.slices()
    assert shown.text("output.match").startswith(f"match {count} of ")
    shown.press("n")
    assert shown.text("output.match").startswith("match 1 of ")
    assert count == 1 or shown.slices() != last
    assert shown.text("button.link span") == "Linked"
