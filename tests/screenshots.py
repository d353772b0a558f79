"""Pictures of the pages for the documentation: `make screenshots`, with the shipped nano model.

Each is a PNG in docs/images, of what a user sees in a real browser, and small.
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from fhe_inhibitor.app.page import EXAMPLES
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.system.folders import cache_root
from tests.browsing import PACKAGES, missing, open_browser, visit
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.app.test_page import RUN_MS, app
from tests.fhe_inhibitor.service.serving import Serving, serve

IMAGES = REPOSITORY / "docs" / "images"
MAX_BYTES, N_COLOURS = 150_000, 48
WIDE = (900, 600)
TEXTS = ("a gripping , funny film", "too long , too loud , and dull")


def main() -> None:
    """Take all pictures."""
    if lacking := missing(*PACKAGES):
        print(f"pictures of pages need {lacking}", file=sys.stderr)
        sys.exit(2)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, open_browser() as browser:
        model, folder = Path(DEFAULT_MODEL), Path(scratch)
        with serve(model, cache_root(), folder / "data", worker_threads=2) as server:
            _status(browser, server, folder)
        with app(folder / "app", cache_root(), "--model", DEFAULT_MODEL) as url:
            _page(browser, url)


def _status(browser: Any, server: Serving, folder: Path) -> None:
    options = RemoteOptions(keys_dir=folder / "keys", cache_dir=folder / "cache")
    with RemoteClient(server.url, server.token, options) as client:
        client.classify_many(TEXTS)
    with visit(browser, server.url, WIDE) as seen:
        seen.page.fill("#token", server.token)
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("#overview")
        _take(seen.page, "status")


def _page(browser: Any, url: str) -> None:
    with visit(browser, url, WIDE) as seen:
        seen.page.wait_for_selector("#text textarea")
        seen.page.fill("#text textarea", EXAMPLES[-1])
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("#outcome .label", timeout=RUN_MS)
        seen.page.evaluate("document.activeElement.blur()")
        _take(seen.page, "app")


def _take(page: Any, name: str) -> None:
    """Write a picture of a whole page, in a few colours; a large one is refused."""
    picture = Image.open(BytesIO(page.screenshot(full_page=True)))
    small = BytesIO()
    picture.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    content = small.getvalue()
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name}.png would have {len(content)} bytes: keep it below {MAX_BYTES}")
    (IMAGES / f"{name}.png").write_bytes(content)


if __name__ == "__main__":
    main()
