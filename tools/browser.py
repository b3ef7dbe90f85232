"""A headless Chromium that cannot reach the network, for the site's checks and screenshots."""

import functools
import http.server
import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL = {"file", "data", "blob", "about"}
#: all other addresses: only these are asked about, since each question goes to Python and back
ELSEWHERE = re.compile(rf"^(?!(?:{'|'.join(sorted(LOCAL))}):)")
# Chromium's own chatter with its makers must not count as the site's.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Two complaints of the theme about itself; harmless.
KNOWN_ERRORS = ("THEBE_JS_URL", "invalid theme mode")


def chromium_path() -> str | None:
    """STORYDIFF_CHROMIUM, or the first Chromium on the PATH; None lets Playwright look for its own."""
    return os.environ.get("STORYDIFF_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as p:
        try:
            browser = p.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        except Error as e:
            raise RuntimeError(
                "No Chromium could be started for the site's checks. Install one (Debian: apt-get install "
                f"chromium), or set STORYDIFF_CHROMIUM to its path. What was said: {str(e).splitlines()[0]}"
            ) from e
        yield browser
        browser.close()


def pages(site: Path) -> list[str]:
    """Every page of a built site, the first page first, as paths below the site's folder."""
    if not (site / "index.html").exists():
        raise FileNotFoundError(f"no site in {site}: expected index.html there. Run `make book`.")
    found = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))
    # index.html only sends the reader on to book/intro.html
    found = [p for p in found if not p.startswith(("_static/", "_sources/")) and p != "index.html"]
    return sorted(found, key=lambda p: p != "book/intro.html")


@contextmanager
def served(folder: Path, prefix: str = ""):
    """A folder over http, as on a course's web server: its host and port, until the block ends."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path(path.removeprefix(prefix))

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class Visit:
    """A page in a fresh browser context, with everything that went wrong while it was open."""

    def __init__(self, browser, *, width=1280, height=900, dark=False, host=None):
        self.host = host  # a local server, if the site is not opened from its folder
        self.outside: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.route(ELSEWHERE, self._gate)
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda r: r.status >= 400 and self.failed.append(f"{r.status} {r.url}"))
        self.page.on("websocket", lambda s: self.outside.append(s.url))
        self.page.on("console", lambda m: m.type == "error" and self._error(m.text))
        self.page.on("pageerror", lambda e: self._error(str(e)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def open(self, url: str):
        """Go there, and wait until widgets and formulas are drawn."""
        self.page.goto(url, wait_until="load")
        self.page.evaluate("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
        self.page.wait_for_function(
            """() => [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')]
                .every(s => s.parentElement.querySelector('.jupyter-widgets, .widget-subarea, .lm-Widget'))"""
        )
        self.page.evaluate("() => document.fonts.ready.then(() => true)")
        return self.page

    def _local(self, url: str) -> bool:
        return urlsplit(url).scheme in LOCAL or (self.host is not None and urlsplit(url).netloc == self.host)

    def _gate(self, route):
        url = route.request.url
        if self._local(url):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def _failed(self, request):
        if self._local(request.url):
            self.failed.append(f"{request.failure} {request.url}")

    def _error(self, text: str):
        if not any(k in text for k in KNOWN_ERRORS):
            self.errors.append(text[:300])
