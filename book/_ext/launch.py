"""Buttons that open a chapter on Binder, Colab or a JupyterHub, once the book has a repository.

``make book REPOSITORY=https://github.com/owner/name`` shows them; ``BRANCH=`` (main) and ``JUPYTERHUB=`` (the
address of a hub with nbgitpuller) go with it. Without a repository there are none. What Binder installs is in
``binder/``; the directive ``{launch}`` says what Colab needs.
"""

import os
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.errors import ConfigError
from sphinx.util.docutils import SphinxDirective

REPOSITORY = re.compile(r"(https://(github|gitlab)\.com/[\w.-]+/[\w.-]+?)(?:\.git)?/?")
COLAB = """```{{admonition}} On Colab
:class: tip
A chapter's rocket opens it in Colab, which has nothing of this book. Run this in a first cell of its own:

    !git clone --depth 1 --branch {branch} {url} book
    %cd book
    %pip install -q -e .
```"""


def options(url: str, branch: str = "", hub: str = "") -> dict:
    """The theme's options for a repository; none without an address.

    Raises
    ------
    ConfigError
        It is not an address of a repository on GitHub or GitLab.
    """
    if not url:
        return {}
    found = REPOSITORY.fullmatch(url)
    if not found:
        raise ConfigError(f"REPOSITORY is {url!r}; expected such as https://github.com/owner/name.")
    services = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
    if found[2] == "github":  # Colab reads no other
        services["colab_url"] = "https://colab.research.google.com"
    if hub:
        services["jupyterhub_url"] = hub.rstrip("/")
    return {"repository_url": found[1], "repository_branch": branch or "main", "launch_buttons": services}


def named() -> dict:
    """The same, as the environment says: the Makefile puts its variables there."""
    return options(*(os.environ.get(f"STORYDIFF_{n}", "") for n in ("REPOSITORY", "BRANCH", "JUPYTERHUB")))


def show(app, config) -> None:
    config.html_theme_options.update(named())


class Launch(SphinxDirective):
    def run(self):
        now, box = named(), nodes.container()
        if "colab_url" in now.get("launch_buttons", {}):
            text = COLAB.format(url=now["repository_url"], branch=now["repository_branch"])
            self.state.nested_parse(StringList(text.split("\n"), source="launch"), 0, box)
        return box.children


def setup(app):
    app.connect("config-inited", show)
    app.add_directive("launch", Launch)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
