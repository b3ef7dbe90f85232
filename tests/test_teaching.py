"""The pages of book/teach: what they name exists, no chapter is left out, and the key stays apart."""

import ast
import inspect
import re
from pathlib import Path

import chapters
import editions
import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEACH = ROOT / "book" / "teach"
NAMES = ("plan", "goals", "before", "primer", "projects", "test")
TEXT = {name: (TEACH / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
KEY = ROOT / "tools" / "answers" / "course-test.md"


teaching, primer_figures = chapters.extension("teaching"), chapters.extension("primer_figures")
CHAPTERS = teaching.chapters(ROOT)
WEEKS = [teaching.plan(body) for body in re.findall(r"^```\{week\}\n(.*?)^```", TEXT["plan"], re.M | re.S)]


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT[name], re.M | re.S)


def parts(text):
    """Number -> text, of a page whose questions are its headings `## 1. ...`."""
    return dict(re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", text, re.M | re.S))


def test_pages_are_in_the_book_and_one_page_links_them():
    toc, first = (ROOT / "_toc.yml").read_text(), (ROOT / "book/teaching.md").read_text(encoding="utf-8")
    assert {p.stem for p in TEACH.glob("*.md")} == set(NAMES)
    for name in NAMES:
        assert f"book/teach/{name}\n" in toc and f"teach/{name}.md" in first


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[name]):
        page, _, heading = link.partition("#")
        if "://" in page:
            continue
        target = TEACH / page if page else TEACH / f"{name}.md"
        assert target.is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.+)", target.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, link


@pytest.mark.parametrize("name", NAMES)
def test_sections_of_chapters_exist(name):
    """`chapter [05](...ipynb), "Why it works"` names a heading of that chapter."""
    named = r"\]\(\.\./\.\./notebooks/(\d\d)[^)]*\), \"([^\"]+)\""
    for number, section in re.findall(named, " ".join(TEXT[name].split())):
        assert section in CHAPTERS[number].sections, (number, section)


def test_every_chapter_is_in_the_plan_once_and_has_goals():
    assert len(WEEKS) == 6
    assert [n for week in WEEKS for n in week["read"]] == list(CHAPTERS)
    assert re.findall(r"^## (\d\d) (.+)", TEXT["goals"], re.M) == [
        (c.number, c.title) for c in CHAPTERS.values()
    ]
    assert re.findall(r"^```\{takeaways\} (\d\d)", TEXT["goals"], re.M) == list(CHAPTERS)
    assert {n: c.takeaways.count("\n- ") + 1 for n, c in CHAPTERS.items()} == dict.fromkeys(CHAPTERS, 3)


@pytest.mark.parametrize("week", range(6))
def test_a_week_names_what_is_there(week):
    assert teaching.complaints(WEEKS[week], CHAPTERS) == []
    mine = {name for n in WEEKS[week]["read"] for name in CHAPTERS[n].exercises}
    assert set(WEEKS[week]["exercises"] + WEEKS[week]["more"]) <= mine, "an exercise of another week"
    assert "**Time**" in "\n".join(teaching.write_week(WEEKS[week], CHAPTERS))


def test_a_week_that_names_what_is_not_there_is_told():
    week = teaching.plan("read: 00 99\nexercises: nothing\nskip: 05 No such section")
    said = "; ".join(teaching.complaints(week, CHAPTERS))
    assert "no chapter 99" in said and "'nothing'" in said and "'No such section'" in said


def test_goals_name_exercises_of_their_chapter():
    for number, text in re.findall(r"^## (\d\d) (.*?)(?=^## |\Z)", TEXT["goals"], re.M | re.S):
        named = re.findall(r"exercises? (\"[^\"]+\"(?:, \"[^\"]+\")*)", " ".join(text.split()))
        titles = re.findall(r"\"([^\"]+)\"", " ".join(named))
        assert titles and set(titles) <= set(CHAPTERS[number].exercises.values()), number


def test_the_primers_code_runs():
    names = {}
    for code in blocks("primer", "python"):
        exec(code, names)  # asserts its shapes


def test_the_primers_figures_show_what_is_computed():
    import torch

    picture, kernel = (
        torch.tensor(t).float()[None, None] for t in (primer_figures.PICTURE, primer_figures.KERNEL)
    )
    assert torch.nn.functional.conv2d(picture, kernel)[0, 0].tolist() == primer_figures.convolve()
    for name, draw in primer_figures.FIGURES.items():
        assert f"{{primer-figure}} {name}" in TEXT["primer"]
        assert 'role="img" aria-label="' in draw()
        assert min(map(int, re.findall(r'font-size="(\d+)"', draw()))) >= 15


def test_commands_of_the_projects_exist(monkeypatch, capsys):
    from storydiff_lite import cli

    monkeypatch.chdir(ROOT)
    text, make = TEXT["projects"] + TEXT["test"] + TEXT["plan"], (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make (\w+)", text, re.M)):
        assert re.search(rf"^{target}:", make, re.M), target
    commands = re.findall(r"^\.venv/bin/storydiff (.+?)(?:\s+#.*)?$", text, re.M)
    assert len(commands) == 2
    for command, story, *options in map(str.split, commands):
        cli.main(["check", story])
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        said = capsys.readouterr().out
        for option in (o for o in options if o.startswith("--")):
            assert option in said, option


def test_the_projects_code_calls_what_is_there():
    """Imports resolve, and what is taken from a module of the package is in it."""
    codes = blocks("projects", "python")
    assert len(codes) == 4
    for code in codes:
        tree, names = ast.parse(code), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), names)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in names
            ):
                assert hasattr(names[node.value.id], node.attr), ast.unparse(node)
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr.startswith("measure")
            ):
                taken = inspect.signature(getattr(names["experiments"], node.func.attr)).parameters
                free = any(p.kind is p.VAR_KEYWORD for p in taken.values())
                assert free or {k.arg for k in node.keywords} <= set(taken)


def test_every_project_says_what_is_asked_and_how_it_is_graded():
    projects = re.findall(r"^## Project \d: (.*?)(?=^## |\Z)", TEXT["projects"], re.M | re.S)
    assert len(projects) == 4
    for text in projects:
        for word in ("Question", "Data", "Method", "What counts as an answer", "Pitfalls"):
            assert f"**{word}.**" in text
        assert sum(map(int, re.findall(r"^\| (\d) \|", text, re.M))) == 12


def test_prerequisites_have_answers_and_say_what_to_read():
    asked = parts(TEXT["before"])
    assert list(asked) == [str(n) for n in range(1, 11)]
    for text in asked.values():
        assert ":class: dropdown" in text and "**If yours was different**" in text and "](" in text


# ------------------------------------------------------------------------------- the key of the test
def test_the_key_answers_every_question():
    asked, answered = parts(TEXT["test"]), parts(KEY.read_text(encoding="utf-8"))
    assert list(asked) == list(answered) == [str(n) for n in range(1, 11)]
    for number, text in asked.items():
        letters = re.findall(r"^- ([A-D]): ", text, re.M)
        assert letters == list("ABCD")
        assert answered[number][0] in letters and "Reason: " in answered[number]


def reasons():
    return [
        " ".join(r.split())[:60]
        for r in re.findall(r"Reason: (.*?)\. ", KEY.read_text(encoding="utf-8"), re.S)
    ]


def test_the_key_is_on_no_page():
    assert "tools" in yaml.safe_load((ROOT / "_config.yml").read_text())["exclude_patterns"]
    for page in (ROOT / "book").rglob("*.md"):
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert not [r for r in reasons() if r in text], page.name
    assert "answers" not in (ROOT / "_toc.yml").read_text()


def test_the_key_is_not_in_the_student_edition(tmp_path):
    editions.make_student(tmp_path / "student")
    files = [p for p in (tmp_path / "student").rglob("*") if p.is_file()]
    assert len(files) > len(CHAPTERS) and KEY.name not in {p.name for p in files}
    assert len(reasons()) == 10
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not [r for r in reasons() if r in text], file.name


def test_the_minutes_of_reading_are_those_of_the_plan():
    text = (ROOT / "book/teaching.md").read_text(encoding="utf-8")
    least, most = map(int, re.search(r"Reading takes (\d+) to (\d+) of them", text).groups())
    minutes = [c.minutes for c in CHAPTERS.values()]
    assert abs(least - min(minutes)) <= 2 and abs(most - max(minutes)) <= 2, (min(minutes), max(minutes))
