"""The directive ``{story-machine} VIEW``: a story that the reader's own browser draws.

Its files (models, runtime, scripts) are written into the site's `_static/story-machine/` by
`storydiff_lite.browser`; the export of the models is kept in `_build/` for the next build. A page with the
directive gets one script and one stylesheet; all else is loaded when the reader presses the button. Other
pages get nothing.
"""

import hashlib
import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

FOLDER = "story-machine"
#: what `storydiff_lite/browser/page/reader/examples.js` knows
VIEWS = ("tell", "guidance", "attention", "maps", "machine")
FENCE = re.compile(r"^```\{story-machine\} (\S+)\n(.*?)```$", re.M | re.S)
NO_SCRIPT = "Here new stories can be drawn. This needs a browser with JavaScript switched on."
IN_NOTEBOOKS = (
    "*On the book's page a story can be drawn here, in the browser. In a notebook, `pipe(...)` draws it.*"
)


class StoryMachineNode(nodes.General, nodes.Element):
    """Where a story machine is; ``view``: which."""


class StoryMachine(SphinxDirective):
    required_arguments = 1

    def run(self):
        view = self.arguments[0]
        if view not in VIEWS:
            known = ", ".join(VIEWS)
            log.warning(
                "{story-machine}: no view %r; there are %s", view, known, location=self.get_location()
            )
            return []
        return [StoryMachineNode(view=view)]


def settings(site: dict, docname: str) -> dict:
    """What a page tells the script: where the files are, how many bytes they have, what to choose from."""
    return {
        "base": "../" * docname.count("/") + f"_static/{FOLDER}/",
        "bytes": site["bytes"],
        "version": site["version"],
        "world": site["world"],
    }


def as_html(view: str, settings: dict) -> str:
    given = escape(json.dumps(settings), quote=True)
    return (
        f'<div class="story-machine" data-view="{view}" data-settings="{given}">'
        f'<p class="sm-no-script">{escape(NO_SCRIPT)}</p></div>'
    )


def visit_html(translator, node):
    site = translator.builder.app.story_machine
    docname = translator.builder.current_docname
    translator.body.append(as_html(node["view"], settings(site, docname)))
    raise nodes.SkipNode


def visit_other(translator, node):
    raise nodes.SkipNode


def write_files(app) -> None:
    """Write the files into one more static folder, before any page is read."""
    if app.builder.format != "html":
        return
    from storydiff_lite.browser.runtime import RuntimeFileError
    from storydiff_lite.browser.site import build, suggestions
    from storydiff_lite.weights import WeightsError

    into = Path(app.doctreedir).parent / f".{FOLDER}"
    try:
        sizes = build(
            into / FOLDER, Path(app.confdir) / "_build", lambda text: log.info("story machine: %s", text)
        )
    except (ImportError, RuntimeFileError, WeightsError) as error:
        raise ExtensionError(str(error)) from error
    app.config.html_static_path.append(str(into))
    parts = {name: size for name, size in sizes.items() if name not in ("machine.js", "machine.css")}
    digest = hashlib.sha256(b"".join((into / FOLDER / name).read_bytes() for name in sorted(parts)))
    app.story_machine = {
        "bytes": sum(parts.values()),
        "version": digest.hexdigest()[:12],
        "world": suggestions(),
    }


def add_script(app, pagename, templatename, context, doctree) -> None:
    """One script and one stylesheet for a page that has a machine."""
    if doctree is not None and any(doctree.findall(StoryMachineNode)):
        app.add_js_file(f"{FOLDER}/machine.js")
        app.add_css_file(f"{FOLDER}/machine.css")


def setup(app):
    app.add_node(
        StoryMachineNode,
        html=(visit_html, None),
        latex=(visit_other, None),
        text=(visit_other, None),
        man=(visit_other, None),
        texinfo=(visit_other, None),
    )
    app.add_directive("story-machine", StoryMachine)
    app.connect("builder-inited", write_files)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
