"""The page of a comparison in a real browser: no error, videos in step, every control works."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparable import SIZE, make_sweep

from pixelwizard.comparison.run import comparison_of, write_comparison
from pixelwizard.config.evaluate import CompareConfig

pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium, chromedriver")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")
FLAGS += ("--disable-dev-shm-usage", "--window-size=1500,1000", "--force-prefers-reduced-motion")
FRAME = 1 / 24
Browser = Any


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sweep = make_sweep(tmp_path_factory.mktemp("sweep"))
    gone = next((sweep / "schedule=euler8,seed=1" / "videos").glob("*blue*.mp4"))
    comparison = comparison_of(CompareConfig(runs=[str(sweep)]))
    gone.unlink()  # between the reading and the copying
    assert len(write_comparison(comparison, sweep)) == 1
    shutil.copytree(sweep / "report", sweep.parent / "elsewhere")  # it is self-contained
    return sweep.parent / "elsewhere" / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Browser:
    browser.get(report.as_uri())
    settle(browser)
    return browser


def settle(page: Browser) -> None:
    page.set_script_timeout(60)
    page.execute_async_script("player.settled().then(arguments[0])")


def times(page: Browser) -> list[float]:
    """Where every video on the screen is, read at one moment."""
    return list(page.execute_script("return player.ready().map((video) => video.currentTime)"))


def keys(page: Browser, *pressed: str) -> None:
    page.execute_script("document.activeElement.blur()")
    ActionChains(page).send_keys(*pressed).perform()


def picture(page: Browser, name: str) -> None:
    """Keep a screenshot where PIXELWIZARD_SCREENSHOTS says, for people to look at."""
    if folder := os.environ.get("PIXELWIZARD_SCREENSHOTS"):
        page.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_the_page_loads_from_disk_without_an_error_or_a_request(page: Browser) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [entry["message"] for entry in page.get_log("performance")]
    asked = [event for event in events if '"Network.requestWillBeSent"' in event]
    assert asked and not [event for event in asked if '"url":"http' in event]
    cells = page.find_elements(By.CSS_SELECTOR, "#scores tbody tr")
    assert [row.text.split()[0] for row in cells] == ["shortcut4", "euler4", "euler8", "unipc50"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#plots svg")) == 2
    assert len(page.find_elements(By.CSS_SELECTOR, "#rows .row")) == 4
    assert "<b>grows</b>" in page.find_element(By.ID, "rows").text  # a prompt is text, not markup
    marked = page.find_elements(By.CSS_SELECTOR, "#settings .marked")
    assert {"schedule.solver", "schedule.steps"} <= {
        row.text.split()[0] for row in page.find_elements(By.CSS_SELECTOR, "#settings tbody tr")
    } and marked
    picture(page, "top")


def test_standing_videos_show_the_same_frame(page: Browser) -> None:
    page.execute_script("document.getElementById('rows').scrollIntoView(); player.show(0)")
    time.sleep(0.3)
    page.find_element(By.ID, "next").click()
    keys(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    settle(page)
    assert page.execute_script("return player.frame") == 2
    found = times(page)
    assert len(found) >= 4 and max(found) - min(found) < 1e-3
    assert found[0] == pytest.approx(2.5 * FRAME, abs=1e-3)
    assert page.find_element(By.ID, "frame").text == f"3 of {SIZE.frames}"


def test_playing_videos_stay_within_a_frame_of_each_other(page: Browser) -> None:
    page.execute_script("player.show(0)")
    keys(page, " ")
    settle(page)
    assert page.find_element(By.ID, "play").text == "pause"
    for _ in range(3):  # a machine with other work may drop behind for a moment
        spreads, places = watched(page)
        if sorted(spreads)[int(0.9 * len(spreads))] < FRAME:
            break
    assert sorted(spreads)[int(0.9 * len(spreads))] < FRAME, spreads
    assert max(places) - min(places) > 5 * FRAME  # they did play
    page.find_element(By.ID, "play").click()
    settle(page)
    found = times(page)
    assert max(found) - min(found) < 1e-3


def watched(page: Browser) -> tuple[list[float], list[float]]:
    """How far the playing videos are apart and where the last of them is, at 20 moments."""
    spreads: list[float] = []
    places: list[float] = []
    deadline = time.monotonic() + 30
    while len(spreads) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
        playing, found = page.execute_script(
            "const all = player.ready(); return [all.every((v) => !v.paused && !v.seeking),"
            " all.map((v) => v.currentTime)]"
        )
        if playing and found:  # not before there are any, nor while all go back to the beginning
            spreads.append(max(found) - min(found))
            places.append(min(found))
    return spreads, places


def test_the_scrubber_and_the_rows_further_down_are_in_step(page: Browser) -> None:
    scrub = page.find_element(By.ID, "scrub")
    page.execute_script(
        "arguments[0].value = 20; arguments[0].dispatchEvent(new Event('input'))", scrub
    )
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    time.sleep(0.3)
    settle(page)
    found = times(page)
    assert len(found) >= 4 and all(t == pytest.approx(20.5 * FRAME, abs=1e-3) for t in found)
    missing = page.find_elements(By.CSS_SELECTOR, "#rows .row:last-child .absent")
    assert [place.text for place in missing] == ["video missing"]
    picture(page, "rows")


def test_the_split_view_is_dragged_and_moved_by_keys(page: Browser) -> None:
    view = page.find_element(By.ID, "split")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", view)
    Select(page.find_element(By.ID, "left")).select_by_visible_text("euler4")
    Select(page.find_element(By.ID, "right")).select_by_visible_text("unipc50")
    settle(page)
    films = view.find_elements(By.TAG_NAME, "video")
    assert [film.get_attribute("aria-label") for film in films] == ["euler4", "unipc50"]
    ActionChains(page).move_to_element_with_offset(view, -100, 0).click_and_hold().move_by_offset(
        160, 10
    ).release().perform()
    divider = page.find_element(By.ID, "divider")
    expected = 50 + 100 * 60 / view.size["width"]
    assert float(divider.get_attribute("value")) == pytest.approx(expected, abs=1.5)
    before = float(divider.get_attribute("value"))
    divider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert float(divider.get_attribute("value")) == before - 2
    style = page.execute_script("return getComputedStyle(arguments[0]).clipPath", films[1])
    assert style.endswith(f"{before - 2:g}%)")
    picture(page, "split")


def test_the_page_is_dark_where_that_is_wanted_and_fits_a_phone(page: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(background)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert (light, page.execute_script(background)) == ("rgb(255, 255, 255)", "rgb(21, 23, 26)")
    page.execute_script("window.scrollTo(0, 0)")
    picture(page, "dark")
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    wide = page.execute_script(
        "return [...document.querySelectorAll('body *')].filter((e) => !e.closest('.wide')"
        " && e.getBoundingClientRect().right > 390).map((e) => e.outerHTML.slice(0, 80))"
    )
    picture(page, "phone")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert wide == []


def test_every_control_is_reached_by_the_keyboard(page: Browser) -> None:
    page.execute_script("window.scrollTo(0, 0)")
    page.find_element(By.TAG_NAME, "h1").click()
    reached = []
    for _ in range(9):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.execute_script("return document.activeElement.id"))
    wanted = ["left", "right", "sample", "divider", "back", "play", "next", "scrub"]
    assert [id for id in reached if id] == wanted
