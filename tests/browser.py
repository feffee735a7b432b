"""A headless Chromium for tests, or the reason why there is none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = Service = None

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")  # fmt: skip


def missing() -> str:
    """What is needed and not there; "" if all is."""
    if webdriver is None:
        return "needs selenium (extra dev)"
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(absent)} (Debian: chromium, chromium-driver)" if absent else ""


class Browser:
    """Chromium on one page, with a log of all that it asked for and said."""

    def __init__(self, profile: Path) -> None:
        assert webdriver is not None
        assert Service is not None
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def size(self, width: int, height: int = 900) -> None:
        """Width and height of the window; below 500 a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """The system's colours: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, page: Path) -> None:
        """Load a page from the disk."""
        self.driver.get(page.as_uri())

    def do(self, script: str, *arguments: Any) -> Any:
        """The value of a piece of JavaScript."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """The text of every element that fits."""
        return self.do("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText.trim())", selector)

    def wait(self, done: Callable[[], Any], seconds: float = 30) -> Any:
        """What `done` gives once that is true."""
        until = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.05)
        return found

    def said(self) -> list[str]:
        """Warnings and errors in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked_for(self) -> list[str]:
        """Addresses that pages have fetched, or tried to, since the last call.

        Left out are data inside the page, and what its policy has stopped before anything was sent.
        """
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        by_method = [(entry["method"], entry["params"]) for entry in entries]
        asked = [(p["requestId"], p["request"]["url"]) for m, p in by_method if m == "Network.requestWillBeSent"]
        stopped = {
            p["requestId"] for m, p in by_method if m == "Network.loadingFailed" and p.get("blockedReason") == "csp"
        }
        return [url for request, url in asked if request not in stopped and not url.startswith("data:")]
