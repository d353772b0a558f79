"""A real browser for the tests of pages: the system's Chromium, driven by playwright.

`python -m tests.browsing` says in one line what is missing of it, if anything.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from fhe_inhibitor.system.extras import install_command

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("playwright", "gradio")
NARROW = (400, 800)
# Texts whose contrast with what is behind them is below what WCAG 2 wants of ordinary text, 4.5.
PALE = """() => {
  const channels = (color) => {
    const found = color.match(/[\\d.]+/g).map(Number);
    return color.startsWith("color(srgb") ? found.map((x, i) => i < 3 ? 255 * x : x) : found;
  };
  const luminance = (color) => color.slice(0, 3).map((x) => {
    const c = x / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const pale = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    const shown = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!own.length || !shown) continue;
    if (element.matches(":disabled, :disabled *, script, style, noscript")) continue;
    const color = channels(getComputedStyle(element).color);
    const [a, b] = [luminance(color), luminance(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const text = own[0].textContent.trim().slice(0, 40);
    if (contrast < 4.5) pale.push(`${text}: ${contrast.toFixed(2)}`);
  }
  return pale;
}"""


def missing(*packages: str) -> str:
    """Return what of Chromium and these Python packages is missing, in one line; "" if nothing."""
    wanted = {name: find_spec(name) is not None for name in packages}
    lacking = [name for name, there in wanted.items() if not there]
    parts = []
    if lacking:
        parts.append(f"{' and '.join(lacking)} ({install_command('browser')})")
    if chromium() is None:
        parts.append("Chromium (apt-get install chromium)")
    return " and ".join(parts)


def chromium() -> str | None:
    """Return the path of the system's Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """A page in a window of its own: what it said in the console, and which hosts it asked."""

    page: Any
    said: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def check(self, url: str) -> None:
        """Check that the page was quiet, asked its server alone and fits into its window."""
        assert self.said == []
        assert self.hosts <= {urlsplit(url).netloc}
        wide = self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, "the page is wider than its window"

    def pale(self) -> list[str]:
        """Return the texts that stand out too little, with their contrast."""
        return self.page.evaluate(PALE)

    def tab_to(self, condition: str, most: int = 40) -> int:
        """Press Tab until the focus is on an element that matches a selector; return how often."""
        for n in range(1, most + 1):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(f"document.activeElement.matches({condition!r})"):
                return n
        raise AssertionError(f"{most} times Tab did not reach {condition}")

    def _note(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(url).netloc)


@contextmanager
def open_browser() -> Iterator[Any]:
    """Run a headless Chromium."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Any, url: str, size: tuple[int, int] = NARROW, dark: bool = False
) -> Iterator[Visit]:
    """Open a page in a window of this size."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        locale="en-GB",
    )
    context.set_default_timeout(120_000)  # of a busy machine, too
    visited = Visit(context.new_page())
    visited.page.goto(url)
    yield visited
    context.close()


if __name__ == "__main__":
    if lacking := missing(*PACKAGES):
        print(f"tests of pages need {lacking}", file=sys.stderr)
        sys.exit(2)
