"""Headless Chromium, to look at pages as people do: pointers, keys, screenshots."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
             "--hide-scrollbars")


def chromium() -> tuple[str, str]:
    """Where Chromium and its driver are; the test skips where they are not."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium and chromedriver found; on Debian: apt-get install chromium chromium-driver")
    return browser, driver


class Browser:
    """A window. Places are CSS pixels from the upper left corner of the window."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page: Path, width: int = 1280, height: int = 889, density: float = 1, touch: bool = False,
             dark: bool = False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": density, "mobile": touch})
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {
            "enabled": touch, "maxTouchPoints": 2 if touch else 1})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        self.driver.get(page.resolve().as_uri())

    def run(self, script: str, *arguments):
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait(self, script: str, seconds: float = 10):
        """Until an expression is true; its value."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(lambda _: self.run(script), script)

    def click(self, selector: str):
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str, modifiers: int = 0):
        """Keys by their names in JavaScript's events; `modifiers` 8 is shift."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, " ": 32}
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            event = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper())), "modifiers": modifiers}
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def mouse(self, kind: str, x: float, y: float, **options):
        """`kind` is mousePressed, mouseMoved, mouseReleased or mouseWheel."""
        held = {} if kind in ("mouseMoved", "mouseWheel") else {"button": "left", "clickCount": 1}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **held, **options})

    def drag(self, start: tuple[float, float], end: tuple[float, float]):
        self.mouse("mousePressed", *start)
        for part in (0.3, 0.7, 1):
            place = [a + part * (b - a) for a, b in zip(start, end)]
            self.mouse("mouseMoved", *place, button="left", buttons=1)
        self.mouse("mouseReleased", *end)

    def touch(self, *steps: list[tuple[float, float]]):
        """Fingers that are set down at the first places, moved to the next ones, and lifted."""
        send = lambda kind, places: self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {  # noqa: E731
            "type": kind, "touchPoints": [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]})
        send("touchStart", steps[0])
        for places in steps[1:]:
            send("touchMove", places)
        send("touchEnd", [])

    def box(self, selector: str) -> dict[str, float]:
        """left, top, width and height of an element in the window."""
        return self.run("(({left, top, width, height}) => ({left, top, width, height}))"
                        "(document.querySelector(arguments[0]).getBoundingClientRect())", selector)

    def picture(self, selector: str | None = None) -> np.ndarray:
        """A screenshot of an element, or of the window, [H, W, 3] in 8 bit."""
        from selenium.webdriver.common.by import By

        shown = self.driver if selector is None else self.driver.find_element(By.CSS_SELECTOR, selector)
        png = shown.get_screenshot_as_png() if selector is None else shown.screenshot_as_png
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def complaints(self) -> list[str]:
        """What was written to the console since it was asked last: errors and warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def a_browser(profile: Path) -> Iterator[Browser]:
    """`profile` is an empty folder."""
    found, its_driver = chromium()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(its_driver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
