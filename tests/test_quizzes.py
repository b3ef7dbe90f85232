"""book/quizzes: every question is well formed, asked once in its chapter, and readable without a script."""

import json
from html.parser import HTMLParser

import chapters
import editions
import jsonschema
import pytest

from storydiff_lite import experiments

quizzes = chapters.extension("quizzes")
NUMBERS = [path.stem[:2] for path in chapters.find([])]
EVERY = [asked for number in NUMBERS for asked in quizzes.questions(number)]
each_question = pytest.mark.parametrize("asked", EVERY, ids=lambda q: q["id"])


def schema():
    return json.loads((quizzes.QUIZZES / "schema.json").read_text())


@pytest.mark.parametrize("number", NUMBERS)
def test_questions_of_a_chapter_keep_the_schema(number):
    jsonschema.validate(quizzes.questions(number), schema(), jsonschema.Draft202012Validator)
    assert all(asked["id"].startswith(f"{number}-") for asked in quizzes.questions(number))


SPOILT = {
    "no explanation": lambda q: q["choices"][0].pop("why"),
    "two right": lambda q: [c.update(right=True) for c in q["choices"]],
    "none right": lambda q: [c.pop("right", None) for c in q["choices"]],
    "a word too much": lambda q: q.update(points=3),
}


@pytest.mark.parametrize("name", SPOILT)
def test_the_schema_refuses(name):
    spoilt = quizzes.questions("05")
    SPOILT[name](spoilt[0])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, schema(), jsonschema.Draft202012Validator)


def test_ids_are_unique_and_the_right_answer_moves():
    assert len({asked["id"] for asked in EVERY}) == len(EVERY)
    at = [[bool(c.get("right")) for c in asked["choices"]].index(True) for asked in EVERY]
    assert max(map(at.count, range(3))) < len(EVERY) / 2
    for asked in EVERY:
        assert len({c["why"] for c in asked["choices"]}) == len(asked["choices"]), asked["id"]


@pytest.mark.parametrize("path", chapters.find([]), ids=lambda p: p.stem)
def test_a_chapter_asks_its_questions_once(path):
    cells = chapters.read(path).cells
    asked = {name: i for i, c in enumerate(cells) for name in quizzes.FENCE.findall(c.source)}
    assert list(asked) == [q["id"] for q in quizzes.questions(path.stem[:2])]
    for number, (name, i) in enumerate(asked.items(), 1):
        assert cells[i].id == f"ch{path.stem[:2]}-quiz-{number}"
        if quizzes.find(name)["kind"] == "predict":
            assert cells[i + 1].cell_type == "code", f"{name} is answered by the next cell, or by none"


def test_an_unknown_question_is_told():
    for name in ("05-nothing", "99-halves"):
        with pytest.raises(LookupError, match=name):
            quizzes.find(name)


class Tags(HTMLParser):
    """Checks that tags are closed in order, and keeps the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open += [tag] if tag != "input" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@each_question
def test_a_question_reads_without_a_script(asked):
    page, notebook = Tags(quizzes.as_html(asked)), Tags(quizzes.as_markdown(asked))
    plain = [Tags(quizzes.inline(c["why"])).text for c in asked["choices"]]
    for text in plain:
        assert text in page.text and text in notebook.text
    assert page.text.count("Right: ") == notebook.text.count("Right. ") == 1
    assert not set("*`") & set(page.text)


def test_students_get_the_questions_in_the_notebook():
    path = chapters.find(["05"])[0]
    text = "\n".join(c.source for c in editions.clear(chapters.read(path)).cells)
    assert "{quiz}" not in text
    assert text.count("open your answer") == len(quizzes.questions("05"))


def test_what_a_question_says_of_two_in_one_panel():
    """`10-within`: by character no more alike than without sharing, but so where everyone reads everyone."""
    record = experiments.load("cast")
    low, high = experiments.change(record, "twins", "no sharing", "by character")[1:]
    assert low <= 0 <= high
    assert experiments.change(record, "twins", "no sharing", "everyone")[1] > 0
