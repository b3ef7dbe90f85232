import os
from pathlib import Path

import browser
import pytest

ROOT = Path(__file__).resolve().parents[2]


def site_folder() -> Path:
    return Path(ROOT, os.environ.get("STORYDIFF_SITE", "_build/html"))


def pytest_generate_tests(metafunc):
    if "path" not in metafunc.fixturenames:
        return
    if (site_folder() / "index.html").exists():
        metafunc.parametrize("path", browser.pages(site_folder()))
    elif "STORYDIFF_SITE" in os.environ:
        raise pytest.UsageError(f"no site in {site_folder()}: STORYDIFF_SITE must name a built html folder")
    else:
        metafunc.parametrize("path", [pytest.param("", marks=pytest.mark.skip(reason="no site: make book"))])


@pytest.fixture(scope="session")
def site() -> Path:
    if not (site_folder() / "index.html").exists():
        pytest.skip("no site: run `make book` first")
    return site_folder()


@pytest.fixture(scope="session")
def chromium():
    with browser.chromium() as b:
        yield b
