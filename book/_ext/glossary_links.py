"""Each page links a term of the glossary where it first stands, and says on hover what it means.

No chapter marks anything: after Sphinx has resolved a page, its running text is searched for the terms, from
its beginning. A term's forms are all names that its entry begins with, and their regular plurals; a longer
term goes before a shorter one in it ("class token" before "token"). Names in capitals are matched as they
are ("CLIP" is no clip), others also at the beginning of a sentence. Headings, code, formulas, links,
captions, heads of tables, titles in quotes and what cells print are left as they are. Where the text itself
has linked the term before, by ``{term}``, nothing is added.
"""

import re
from dataclasses import dataclass

from docutils import nodes
from sphinx import addnodes

GLOSSARY = "book/glossary"
#: pages without such links: the glossary itself, and the list of papers
PLAIN = (GLOSSARY, "book/references")
#: words in another sense: what stands before the match -> the match
OTHERWISE = re.compile(r"(?:published|training|same)\s+recipes?$")
#: what is no running text
LEFT = (
    nodes.title,
    nodes.subtitle,
    nodes.rubric,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.reference,
    nodes.caption,
    nodes.legend,
    nodes.thead,
    nodes.raw,
    nodes.comment,
    nodes.term,
    nodes.citation,
    nodes.Invisible,
    addnodes.pending_xref,
    addnodes.download_reference,
)
#: the same, by class: what cells hold and print, numbers of records
LEFT_CLASSES = {"cell_input", "cell_output", "measured", "bibtex"}


@dataclass(frozen=True)
class Term:
    """An entry of the glossary: the id to link to, the names that it begins with, its first sentence."""

    anchor: str
    names: tuple[str, ...]
    means: str


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split()), maxsplit=1)[0]


def read(doctree: nodes.document) -> list[Term]:
    """The entries of a glossary, in its order."""
    found = []
    for glossary in doctree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            terms = [child for child in item.children if isinstance(child, nodes.term)]
            means = first_sentence(item.children[-1].astext())
            found.append(Term(terms[0]["ids"][0], tuple(t.astext() for t in terms), means))
    return found


def plural(name: str) -> str:
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search(r"(s|x|ch|sh)$", name) else "s")


def forms(name: str) -> list[str]:
    """A name and its plural as patterns: blanks of any kind; a capital at a sentence's beginning too."""
    every = []
    for form in (plural(name), name):
        pattern = r"\s+".join(map(re.escape, form.split()))
        if form[0].islower():
            pattern = f"[{form[0]}{form[0].upper()}]{pattern[1:]}"
        every.append(pattern)
    return every


def search(terms: list[Term]) -> tuple[re.Pattern, list[Term]]:
    """One pattern for all forms, the longest first, and the term of each of its groups."""
    every = [(form, term) for term in terms for name in term.names for form in forms(name)]
    every.sort(key=lambda pair: -len(pair[0]))
    parts = "|".join(f"({form})" for form, _ in every)
    return re.compile(rf"(?<![\w-])(?:{parts})(?![\w-])"), [term for _, term in every]


def is_running(node: nodes.Node) -> bool:
    """Whether a piece of text is read as text."""
    while node is not None:
        if isinstance(node, LEFT) or (
            isinstance(node, nodes.Element) and LEFT_CLASSES & set(node["classes"])
        ):
            return False
        node = node.parent
    return True


def join_texts(doctree: nodes.document) -> None:
    """Make one piece of neighbouring texts: a line's end must not cut a term in two."""
    for node in list(doctree.findall(nodes.TextElement)):
        for at in range(len(node.children) - 1, 0, -1):
            before, after = node.children[at - 1 : at + 1]
            if isinstance(before, nodes.Text) and isinstance(after, nodes.Text):
                node[at - 1 : at + 1] = [nodes.Text(before + after)]


def is_title(before: str) -> bool:
    """Whether what comes next stands within curly quotes, as titles of sections and exercises do."""
    return before.count("“") > before.count("”")


def link(term: Term, text: str, address: str) -> nodes.reference:
    uri = f"{address}#{term.anchor}"
    made = nodes.reference("", text, internal=True, refuri=uri, reftitle=term.means)
    made["classes"].append("glossary-link")
    return made


def add(doctree: nodes.document, terms: list[Term], address: str) -> list[str]:
    """Link the terms of a page to the glossary at `address`; return the text of the links made, in order."""
    join_texts(doctree)
    pattern, owners = search(terms)
    by_anchor = {term.anchor: term for term in terms}
    done, made = set(), []
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.Text | nodes.reference))):
        if isinstance(node, nodes.reference):  # the text's own link counts
            page, _, anchor = node.get("refuri", "").partition("#")
            if page == address and anchor in by_anchor:
                done.add(anchor)
            continue
        if not is_running(node):
            continue
        text, at, pieces = node.astext(), 0, []
        for found in pattern.finditer(text):
            term = owners[found.lastindex - 1]
            before = text[: found.start()]
            if term.anchor in done or is_title(before) or OTHERWISE.search(before + found[0]):
                continue
            done.add(term.anchor)
            made.append(found[0])
            pieces += [nodes.Text(text[at : found.start()]), link(term, found[0], address)]
            at = found.end()
        if pieces:
            rest = [*pieces, nodes.Text(text[at:])]
            node.parent.replace(node, [p for p in rest if p.astext()])
    return made


def link_page(app, doctree: nodes.document, docname: str) -> None:
    if docname in PLAIN or app.builder.format != "html":
        return
    if not hasattr(app, "glossary_terms"):
        app.glossary_terms = read(app.env.get_doctree(GLOSSARY))
    add(doctree, app.glossary_terms, app.builder.get_relative_uri(docname, GLOSSARY))


def note(app, docname: str, source: list[str]) -> None:
    """A page is written again when the glossary has changed."""
    if docname not in PLAIN:
        app.env.note_dependency(app.env.doc2path(GLOSSARY))


def setup(app):
    app.connect("source-read", note)
    app.connect("doctree-resolved", link_page, priority=850)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
