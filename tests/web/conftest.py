"""A node with a small archive to look at in pages, and a browser to look with."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from engines import catalog_url
from pydicom import dcmread
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from indexer.catalog import Catalog

Factory = Callable[..., Any]
HOSTILE_NAME = "<script>alert(1)</script>^\"'><b>x"
PARKED_REASON = "expected <b>slices</b>, got none"
_CHROMIUM_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
)


SHADES = """
const canvas = arguments[0].querySelector("canvas");
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let sum = 0;
const seen = new Set();
for (let k = 0; k < data.length; k += 4) { sum += data[k]; seen.add(data[k]); }
return [seen.size, sum / (data.length / 4)];
"""
PATIENCE_S = 90.0


@dataclass
class Pages:
    """A running node that holds the phantoms, a study with hostile text, and a series parked without need."""

    address: str
    hostile_study: str
    parked_series: str
    files: dict[str, Path]

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.address + path, headers=headers, timeout=60, allow_redirects=False)

    def post(self, path: str, **headers: str) -> requests.Response:
        return requests.post(self.address + path, headers=headers, timeout=60, allow_redirects=False)


@pytest.fixture(scope="module")
def pages(
    start_shared_node: Factory,
    pacsimile: Factory,
    phantom_archive: Path,
    make_series: Factory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pages:
    data_dir = tmp_path_factory.getbasetemp() / "pages"
    hostile = make_series(77, spacing_mm=18.0)
    for file in hostile.rglob("*.dcm"):
        one = dcmread(file)
        one.PatientName, one.PatientID = HOSTILE_NAME, "<img src=x onerror=alert(1)>"
        one.StudyDescription = one.SeriesDescription = one.AccessionNumber = '"><i onclick=1>'
        one.save_as(file)
    parked = make_series(78, spacing_mm=18.0)
    done = pacsimile("ingest", phantom_archive, hostile, parked, "--data-dir", data_dir, "--bundle", "tiny")
    assert done.status == 0, done.err
    parked_study = dcmread(next(parked.rglob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    with Catalog(catalog_url(data_dir)) as catalog:
        catalog.progress.settle_again(parked_study)
        leased = catalog.progress.lease("test", 60.0)
        assert leased is not None
        catalog.progress.park(leased, "test", PARKED_REASON)
    node = start_shared_node(data_dir, PACSIMILE_HTTP_VIEWER_URLS="OHIF=https://ohif.invalid/viewer?S={study}")
    return Pages(
        f"http://127.0.0.1:{node.ports['http']}",
        str(one.StudyInstanceUID),
        leased.series_instance_uid,
        {
            str(dcmread(f, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): f
            for f in phantom_archive.rglob("*.dcm")
        },
    )


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for what the browser shows: kept where PACSIMILE_SCREENSHOTS names one."""
    wanted = os.environ.get("PACSIMILE_SCREENSHOTS")
    folder = Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Browser(webdriver.Chrome):
    """Chromium of a chosen size, whose console is listened to."""

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """Errors on the console since the last call."""
        return [entry["message"] for entry in self.get_log("browser") if entry["level"] == "SEVERE"]

    def measures(self) -> dict[str, list[float]]:
        """Milliseconds of what the page has measured of itself, by name."""
        script = "return performance.getEntriesByType('measure').map((m) => [m.name, m.duration])"
        found: dict[str, list[float]] = {}
        for name, duration in self.execute_script(script):
            found.setdefault(name, []).append(round(float(duration), 1))
        return found


@pytest.fixture
def browser(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Browser]:
    """A browser with an empty profile; both programs are named, so that nothing is fetched."""
    options = Options()
    options.binary_location = tool("chromium")
    for option in (*_CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Browser(service=Service(tool("chromedriver")), options=options)
    try:
        driver.set_page_load_timeout(120)
        driver.resize(1366, 768)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def note_timings(screenshots: Path) -> Callable[[dict[str, Any]], None]:
    """Keep measured times beside the screenshots."""

    def note(timings: dict[str, Any]) -> None:
        (screenshots / "timings.json").write_text(json.dumps(timings, indent=1))

    return note


class Comparison:
    """The comparison that a browser shows."""

    def __init__(self, browser: Browser, wait_for: Factory) -> None:
        self._browser, self.wait_for = browser, wait_for
        ready = "return document.body.dataset.ready === 'true'"
        wait_for(lambda: browser.execute_script(ready), PATIENCE_S, "both slices are drawn")
        self.views: list[WebElement] = browser.find_elements(By.CSS_SELECTOR, ".view")

    def slices(self) -> list[int]:
        return [int(view.get_attribute("aria-valuenow") or 0) for view in self.views]

    def shades(self) -> list[tuple[int, float]]:
        return [tuple(self._browser.execute_script(SHADES, view)) for view in self.views]

    def labels(self, name: str) -> list[str]:
        return [view.find_element(By.CSS_SELECTOR, f".{name}").text for view in self.views]

    def text(self, selector: str) -> str:
        return str(self._browser.find_element(By.CSS_SELECTOR, selector).text)

    def press(self, *keys: str) -> None:
        for key in keys:
            before = len(self._browser.measures().get("next-slice", ()))
            self._browser.switch_to.active_element.send_keys(key)
            if key in (Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.PAGE_DOWN, Keys.HOME, Keys.END):
                drawn = lambda: len(self._browser.measures().get("next-slice", ())) > before  # noqa: E731, B023
                self.wait_for(drawn, PATIENCE_S, "the next slice")

    def drag(self, side: int, right: int, down: int) -> None:
        ActionChains(self._browser).drag_and_drop_by_offset(self.views[side], right, down).perform()

    def turn_wheel(self, side: int, down: int) -> None:
        origin = self.views[side]
        script = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: arguments[1], cancelable: true}))"
        self._browser.execute_script(script, origin, down)


@pytest.fixture
def shown_comparison(browser: Browser, wait_for: Factory) -> Callable[[], Comparison]:
    """What drives the comparison that the browser shows."""
    return lambda: Comparison(browser, wait_for)
