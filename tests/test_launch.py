"""Launch buttons: none by default, and those of a named repository."""

import os
import subprocess
import sys

import chapters
import nbformat
import pytest
from sphinx.errors import ConfigError

launch = chapters.extension("launch")
CONF = f"""import sys
sys.path.insert(0, {str(chapters.ROOT / "book/_ext")!r})
extensions = ["myst_nb", "launch"]
nb_execution_mode = "off"
html_theme = "sphinx_book_theme"
"""


def build(folder, **named):
    """A site of one page and one chapter: the HTML of both."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A chapter")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks/00-a-chapter.ipynb")
    (folder / "conf.py").write_text(CONF)
    toctree = "```{toctree}\nnotebooks/00-a-chapter\n```"
    (folder / "index.md").write_text(f"# A book\n\n```{{launch}}\n```\n\n{toctree}\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(folder), str(folder / "html")]
    subprocess.run(command, env=os.environ | named, check=True, capture_output=True, timeout=300)
    return [(folder / "html" / p).read_text() for p in ("index.html", "notebooks/00-a-chapter.html")]


@pytest.mark.slow
def test_no_buttons_without_a_repository(tmp_path):
    first, chapter = build(tmp_path, STORYDIFF_REPOSITORY="")
    for service in ("mybinder.org", "colab", "user-redirect", "fa-rocket"):
        assert service not in (first + chapter).lower()


@pytest.mark.slow
def test_a_named_repository_has_buttons(tmp_path):
    first, chapter = build(
        tmp_path,
        STORYDIFF_REPOSITORY="https://github.com/some/book.git",
        STORYDIFF_BRANCH="spring",
        STORYDIFF_JUPYTERHUB="https://hub.example.org/",
    )
    assert "git clone --depth 1 --branch spring https://github.com/some/book book" in first
    place = "notebooks/00-a-chapter.ipynb"
    assert f"https://mybinder.org/v2/gh/some/book/spring?urlpath=lab/tree/{place}" in chapter
    assert f"https://colab.research.google.com/github/some/book/blob/spring/{place}" in chapter
    assert "https://hub.example.org/hub/user-redirect/git-pull?" in chapter


def test_other_addresses():
    assert "colab_url" not in launch.options("https://gitlab.com/some/book")["launch_buttons"]
    for wrong in ("some/book", "https://github.com/some", "https://example.org/some/book"):
        with pytest.raises(ConfigError, match="expected such as"):
            launch.options(wrong)


def test_binder_finds_what_it_installs():
    folder = chapters.ROOT / "binder"
    named = [
        line.split()[1]
        for line in (folder / "requirements.txt").read_text().splitlines()
        if line[:3] == "-r "
    ]
    assert [(folder / name).resolve() for name in named] == [chapters.ROOT / "requirements.txt"]
    assert (folder / "runtime.txt").read_text().strip() in ("python-3.11", "python-3.12")
    assert os.access(folder / "postBuild", os.X_OK)
