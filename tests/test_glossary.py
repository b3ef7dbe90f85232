"""book/_ext/glossary_links.py, on small pages: what is linked, what is left, and where it leads."""

import re
from pathlib import Path

import chapters
import pytest
from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes

glossary_links = chapters.extension("glossary_links")

TERMS = [
    glossary_links.Term("term-class-noun", ("class noun", "class token"), "What somebody is."),
    glossary_links.Term("term-token", ("token",), "A piece of text. It has a number."),
    glossary_links.Term("term-CLIP", ("CLIP",), "Two encoders."),
    glossary_links.Term("term-identity", ("identity",), "What makes a character this one."),
    glossary_links.Term("term-patch", ("patch",), "A square of tokens."),
    glossary_links.Term("term-recipe", ("recipe",), "What a comic was made from."),
]


def page(*children):
    doctree = new_document("a page")
    doctree += children
    return doctree


def paragraph(text, *more):
    return nodes.paragraph("", "", nodes.Text(text), *more)


def linked(doctree):
    """[(text, id)] of the links added to a page."""
    made = glossary_links.add(doctree, TERMS, "glossary.html")
    links = [r for r in doctree.findall(nodes.reference) if "glossary-link" in r["classes"]]
    assert [r.astext() for r in links] == made, "in the order of the page"
    return [(r.astext(), r["refuri"].removeprefix("glossary.html#")) for r in links]


def test_each_term_is_linked_once_where_it_first_stands():
    text = "A token, a patch and a token."
    doctree = page(paragraph(text), paragraph("Another patch."))
    assert linked(doctree) == [("token", "term-token"), ("patch", "term-patch")]
    assert doctree.astext() == f"{text}\n\nAnother patch.", "the text stays as it was"
    first = next(doctree.findall(nodes.reference))
    assert first["reftitle"] == "A piece of text. It has a number."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tokens are read", [("Tokens", "term-token")]),
        ("two identities, three patches", [("identities", "term-identity"), ("patches", "term-patch")]),
        ("a class token, then a token", [("class token", "term-class-noun"), ("token", "term-token")]),
        ("two class\nnouns", [("class\nnouns", "term-class-noun")]),
        ("a clip by CLIP’s encoder", [("CLIP", "term-CLIP")]),
        ("tokenizer, token-wise, multi-token", []),
        ("“From tokens to patches” is an exercise, a token no title", [("token", "term-token")]),
        ("the published recipe, the recipe", [("recipe", "term-recipe")]),
    ],
)
def test_forms(text, found):
    assert linked(page(paragraph(text))) == found


def test_the_end_of_a_line_does_not_cut_a_term():
    doctree = page(paragraph("a class", nodes.Text("\n"), nodes.Text("token")))
    assert linked(doctree) == [("class\ntoken", "term-class-noun")]


LEFT = {
    "heading": lambda: nodes.section("", nodes.title("", "A token")),
    "code": lambda: paragraph("", nodes.literal("", "a token")),
    "listing": lambda: nodes.literal_block("", "a token"),
    "formula": lambda: paragraph("", nodes.math("", "a token")),
    "link": lambda: paragraph("", nodes.reference("", "a token", refuri="there.html")),
    "caption": lambda: nodes.figure("", nodes.caption("", "a token")),
    "head of a table": lambda: nodes.thead("", nodes.row("", nodes.entry("", paragraph("a token")))),
    "what a cell prints": lambda: nodes.container("", paragraph("a token"), classes=["cell_output"]),
    "raw HTML": lambda: nodes.raw("", "a token", format="html"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_no_running_text_is_left(kind):
    assert linked(page(LEFT[kind](), paragraph("The token."))) == [("token", "term-token")]
    assert linked(page(LEFT[kind]())) == []


def test_a_link_of_the_text_itself_counts():
    own = nodes.reference("", "words", refuri="glossary.html#term-token")
    assert linked(page(paragraph("Some ", own), paragraph("A token."))) == []
    assert linked(page(paragraph("A token."), paragraph("Some ", own.deepcopy()))) == [
        ("token", "term-token")
    ]


def test_a_glossary_is_read():
    term = nodes.term("", "class noun", ids=["term-class-noun"])
    other = nodes.term("", "class token", ids=["term-class-token"])
    text = paragraph("What somebody is (“bear”), in\none word. It is a noun, e.g. a man.")
    item = nodes.definition_list_item("", term, other, nodes.definition("", text))
    doctree = page(addnodes.glossary("", nodes.definition_list("", item)))
    assert glossary_links.read(doctree) == [
        glossary_links.Term(
            "term-class-noun", ("class noun", "class token"), "What somebody is (“bear”), in one word."
        )
    ]


def test_no_two_entries_share_a_name():
    """Two entries with one name, or one with the plural of another, would share a link."""
    text = Path(chapters.ROOT, "book/glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^((?:\S.*\n)+) {2}", text.split(":sorted:\n")[1].split("```")[0], re.M)
    names = [
        {f.lower() for name in e.splitlines() for f in (name, glossary_links.plural(name))} for e in entries
    ]
    assert len(names) > 40 and len(set.union(*names)) == sum(map(len, names))
