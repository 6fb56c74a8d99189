"""Reports in headless Chromium: no errors, curves that can be zoomed and read by mouse and by keyboard, no overflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from megabatch.launcher.report.compare import compare_page, read_runs
from megabatch.launcher.report.fresh import write_report
from support.report_runs import CIFAR10, rich_run, whole

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1280,900"
)
STILL = {"name": "prefers-reduced-motion", "value": "reduce"}  # a page that scrolls smoothly is still moving at a click
LIGHT, DARK = ([{"name": "prefers-color-scheme", "value": value}, STILL] for value in ("light", "dark"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    runs = [rich_run(folder / "one", 600), rich_run(folder / "two", 300, [HOSTILE, *CIFAR10[1:]], 1)]
    details = json.loads(runs[1].details("test").read_text())
    details["classes"] = [f"a class with a long name, number {n}" for n in range(1000)]
    whole(runs[1].details("validation"), details | {"split": "validation"})
    comparison = folder / "compare.html"
    comparison.write_text(compare_page(read_runs([str(run.root) for run in runs])))
    one, two = (write_report(run) for run in runs)
    return {"one": one.as_uri(), "two": two.as_uri(), "compare": comparison.as_uri()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, pages: dict[str, str]) -> webdriver.Chrome:
    """The report of a run, on a wide window."""
    show(browser, pages["one"])
    return browser


def show(browser: webdriver.Chrome, address: str, width: int = 1280, colours: list[dict[str, str]] = LIGHT) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
    browser.get(address)


def plot(browser: webdriver.Chrome, key: str = "loss") -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"#chart-{key} .plot")


def labels(browser: webdriver.Chrome, key: str = "loss") -> list[str]:
    """The words on the axes of a chart."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
    found: list[str] = browser.execute_script(script, f"#chart-{key} .plot text")
    return found


def steps_shown(browser: webdriver.Chrome, key: str = "loss") -> list[float]:
    """The numbers below a chart."""
    return [float(text) for text in labels(browser, key) if text.isdigit() and float(text) > 10]


def amounts(browser: webdriver.Chrome, key: str) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, f"#chart-{key} .amount")]


@pytest.mark.parametrize("name", ["one", "two", "compare"])
def test_the_console_stays_empty_and_every_chart_has_its_curves(
    browser: webdriver.Chrome, pages: dict[str, str], name: str
) -> None:
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    figures = browser.find_elements(By.CSS_SELECTOR, "figure.chart")
    assert len(figures) >= 8
    for figure in figures:
        points = [
            len(str(one.get_attribute("points")).split()) for one in figure.find_elements(By.TAG_NAME, "polyline")
        ]
        assert points, figure.get_attribute("id")
        assert max(points) > 1


def test_dragging_zooms_all_charts_and_a_double_click_shows_everything(page: webdriver.Chrome) -> None:
    before = steps_shown(page)
    assert max(before) == 600
    ActionChains(page).move_to_element_with_offset(plot(page), -60, 0).click_and_hold().move_by_offset(
        120, 10
    ).release().perform()
    for key in ("loss", "learning_rate"):
        inside = steps_shown(page, key)
        assert min(inside) > 150
        assert max(inside) < 450
    ActionChains(page).double_click(plot(page)).perform()
    assert steps_shown(page) == before


def test_buttons_zoom_move_and_reset(page: webdriver.Chrome) -> None:
    before = steps_shown(page)
    page.find_element(By.CSS_SELECTOR, "[data-zoom=in]").click()
    closer = steps_shown(page)
    assert max(closer) - min(closer) < 0.75 * (max(before) - min(before))
    page.find_element(By.CSS_SELECTOR, "[data-zoom=right]").click()
    assert min(steps_shown(page)) > min(closer)
    page.find_element(By.CSS_SELECTOR, "[data-zoom=all]").click()
    assert steps_shown(page) == before


def test_keys_move_the_cursor_zoom_and_reset(page: webdriver.Chrome) -> None:
    before, last = steps_shown(page), amounts(page, "loss")
    chart = plot(page)
    chart.send_keys(Keys.ARROW_LEFT)
    said = page.find_element(By.CSS_SELECTOR, "#chart-loss [aria-live]").get_attribute("textContent") or ""
    assert said.startswith("step 289: training, mean of 3 ")
    assert "validation" in said
    assert amounts(page, "loss") != last
    chart.send_keys("+")
    assert max(steps_shown(page)) < 600
    chart.send_keys(Keys.ESCAPE)
    assert (steps_shown(page), amounts(page, "loss")) == (before, last)


def test_pointing_at_a_chart_shows_the_values_there_in_all_charts(page: webdriver.Chrome) -> None:
    last = {key: amounts(page, key) for key in ("loss", "learning_rate")}
    ActionChains(page).move_to_element_with_offset(plot(page), -100, 0).perform()
    assert page.find_element(By.CSS_SELECTOR, "#chart-loss .readout").text.startswith("step ")
    for key, values in last.items():
        assert amounts(page, key) != values
        assert all(amounts(page, key))


def test_the_legend_takes_a_curve_away_and_brings_it_back(page: webdriver.Chrome) -> None:
    def curves() -> int:
        return len(page.find_elements(By.CSS_SELECTOR, "#chart-loss polyline"))

    button = page.find_element(By.CSS_SELECTOR, "#chart-loss .legend button")
    before = curves()
    button.click()
    assert (curves(), button.get_attribute("aria-pressed")) == (before - 2, "false")  # with the points behind the mean
    button.click()
    assert (curves(), button.get_attribute("aria-pressed")) == (before, "true")


def test_the_axis_can_be_samples_hours_and_logarithmic(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "input[value=samples]").send_keys(Keys.SPACE)
    assert "150k" in labels(page)
    page.find_element(By.CSS_SELECTOR, "input[value=hours]").send_keys(Keys.SPACE)
    assert max(float(text) for text in labels(page)[-9:] if text.startswith("0.0")) == pytest.approx(
        600 * 0.5 / 3600, abs=0.02
    )
    linear = labels(page)
    page.find_element(By.CSS_SELECTOR, "#chart-loss .log").click()
    assert labels(page) != linear


def contrast(browser: webdriver.Chrome, selector: str) -> float:
    """The contrast of a text with what is behind it (WCAG 2.2, relative luminance)."""
    script = """
      const element = document.querySelector(arguments[0]);
      const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
      const layers = [];
      for (let behind = element; behind; behind = behind.parentElement) layers.unshift(rgb(getComputedStyle(behind).backgroundColor));
      const ground = layers.reduce((below, [r, g, b, a = 1]) => [r, g, b].map((v, i) => a * v + (1 - a) * below[i]), [255, 255, 255]);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const style = getComputedStyle(element);
      const ink = element instanceof SVGElement ? (style.fill === "none" ? style.stroke : style.fill) : style.color;
      const [a, b] = [light(rgb(ink)), light(ground)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    """
    found: float = browser.execute_script(script, selector)
    return found


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_curves_can_be_read_in_light_and_in_dark(
    browser: webdriver.Chrome, pages: dict[str, str], colours: list[dict[str, str]]
) -> None:
    show(browser, pages["one"], colours=colours)
    texts = ("h1", ".state", ".figures dt", ".figures small", "nav a", ".chart figcaption", ".readout", ".plot text", ".plot .marked",
             ".legend button", "fieldset input:checked + span", "td", "thead th", ".bars .more", ".matrix .s9", "footer p")  # fmt: skip
    assert {text: contrast(browser, text) for text in texts if contrast(browser, text) < 4.5} == {}
    curves = [f"#chart-memory_bytes .line.c{n}" for n in range(4)]
    assert all(contrast(browser, curve) >= 3 for curve in curves)
    page_is_dark: bool = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 100"
    )
    assert page_is_dark == (colours == DARK)


@pytest.mark.parametrize("name", ["one", "two", "compare"])
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_window(
    browser: webdriver.Chrome, pages: dict[str, str], name: str, width: int
) -> None:
    show(browser, pages[name], width)
    wide: list[Any] = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide == [width, width]


def test_names_of_strangers_run_nothing(browser: webdriver.Chrome, pages: dict[str, str]) -> None:
    show(browser, pages["two"])
    assert browser.title == "two: finished"
    assert HOSTILE in browser.find_element(By.ID, "classes-test").text
    assert browser.find_elements(By.CSS_SELECTOR, "img:not([src^='data:image/jpeg'])") == []


def test_the_first_tab_leads_past_the_head_of_the_page(page: webdriver.Chrome) -> None:
    ActionChains(page).send_keys(Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert focused.text == "Skip to the content"
    assert focused.location["x"] >= 0
