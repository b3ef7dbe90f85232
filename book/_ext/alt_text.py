"""Warn about every picture without a text alternative; `jupyter-book build -W` then fails."""

from html.parser import HTMLParser

from docutils import nodes
from sphinx.util import logging

log = logging.getLogger(__name__)

HELP = "Show it through the package's figure helper, with alt=..., or give the image an alt text."


class Images(HTMLParser):
    """Collects the tags of raw HTML pictures that say nothing about what they show."""

    def __init__(self):
        super().__init__()
        self.mute = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img" and not (attrs.get("alt") or "").strip():
            self.mute.append(self.get_starttag_text()[:100])
        if tag == "svg" and not attrs.get("aria-label") and not attrs.get("aria-labelledby"):
            if attrs.get("aria-hidden") != "true":
                self.mute.append(self.get_starttag_text()[:100])


def check(app, doctree, docname: str) -> None:
    for node in doctree.findall(nodes.image):
        if not (node.get("alt") or "").strip():
            log.warning("picture %s has no alt text. %s", node.get("uri"), HELP, location=node)
    for node in doctree.findall(nodes.raw):
        if "html" not in node.get("format", ""):
            continue
        found = Images()
        found.feed(node.astext())
        for tag in found.mute:
            log.warning("%s: %s has no alt text. %s", docname, tag, HELP)


def setup(app):
    # After the post-transforms: only then are the outputs of a notebook's cells chosen.
    app.connect("doctree-resolved", check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
