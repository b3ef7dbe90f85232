"""book/claims.md: every link, section, test, record and number on it is there."""

import ast
import json
import re
from pathlib import Path

import chapters
import pytest

from storydiff_lite import experiments, world

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "book/claims.md").read_text(encoding="utf-8")
CLAIMS = dict(part.split("\n", 1) for part in re.split(r"^### ", PAGE, flags=re.M)[1:])
STATUS = ("same", "simplified", "differs", "cannot be measured here")

measured = chapters.extension("measured")

ROLES = re.findall(r"\{measured\}`([^`]+)`", PAGE)
TESTS = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
LINKS = re.findall(r"\[[^\]]*\]\(([^)]+)\)", PAGE)
SECTIONS = re.findall(r"\]\(([^)]+)\), \"([^\"]+)\"", " ".join(PAGE.split()))
RECORDS = re.findall(r"record `(\w+)`", " ".join(PAGE.split()))


def test_the_readmes_numbers_are_the_records():
    marked = re.findall(r"<!-- measured (.+?) -->(.*?)<!-- /measured -->", (ROOT / "README.md").read_text())
    assert len(marked) >= 8
    for name, text in marked:
        assert text == measured.say(name), "write it with `python tools/refresh.py --numbers`"


def test_there_is_something_to_check():
    assert len(CLAIMS) >= 15
    assert min(map(len, (ROLES, TESTS, LINKS, SECTIONS, RECORDS))) >= 8


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_has_one_status_and_says_where(claim):
    text = re.split(r"^## ", CLAIMS[claim], flags=re.M)[0]
    found = re.findall(r"Status: \*\*([^*]+)\*\*", text)
    assert len(found) == 1 and found[0] in STATUS, found
    if found[0] != "cannot be measured here":
        assert "../notebooks/" in text, "no chapter is named"
        assert "{measured}" in text or "tests/" in text, "neither a number nor a test is named"


@pytest.mark.parametrize("file, name", sorted(set(TESTS)))
def test_tests_exist(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert not name or name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_links_lead_somewhere(link):
    assert "://" in link or (ROOT / "book" / link.partition("#")[0]).is_file()


@pytest.mark.parametrize("link, title", sorted(set(SECTIONS)))
def test_sections_are_in_their_chapters(link, title):
    book = json.loads((ROOT / "book" / link).read_text(encoding="utf-8"))
    texts = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown"]
    titles = [t for text in texts for t in re.findall(r"^#+ (.+)$", text, flags=re.M)]
    assert title in titles


@pytest.mark.parametrize("record", sorted(set(RECORDS)))
def test_records_exist(record):
    assert (ROOT / f"book/results/{record}.json").is_file()


@pytest.mark.parametrize("role", sorted(set(ROLES)))
def test_numbers_are_in_their_records(role):
    assert re.search(r"\d", measured.say(role))


def test_no_number_is_typed():
    """Decimal numbers in the text are rates that were set, never results."""
    text = re.sub(r"\{measured\}`[^`]+`", "", PAGE)
    text = re.sub(r"`[^`]+`|\([^)]*\.ipynb\)", "", text)
    assert set(re.findall(r"\d+\.\d+", text)) - {"0.25", "0.5", "0.75", "3.1", "3.2"} <= set()


# ------------------------------------------------------------------------------------------- the role


@pytest.fixture
def results(tmp_path):
    summary = {
        "on": {"agreement": [0.512, 0.4, 0.6]},
        "off": {"agreement": [0.2, 0.1, 0.3], "place": [0.01, 0.009, 0.011]},
    }
    record = {"stories": 20, "cost": [{"bytes": 100}, {"bytes": 105}], "summary": summary, "speed": 1.23456}
    (tmp_path / "r.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize(
    "name, said",
    [
        ("r | on | agreement", "0.51 (0.40 to 0.60)"),
        ("r | off | place", "0.010 (0.009 to 0.011)"),
        ("r > on > agreement", "0.51 (0.40 to 0.60)"),
        ("r|stories", "20"),
        ("r | cost | 1 | bytes", "105"),
        ("r | speed", "1.23"),
        ("r | on | agreement - r | off | agreement", "+0.31"),
        ("r | cost | 1 | bytes / r | cost | 0 | bytes", "1.05"),
    ],
)
def test_the_role_says(results, name, said):
    assert measured.say(name, results) == said


@pytest.mark.parametrize(
    "name, words",
    [
        ("s | on", "no record s.json"),
        ("r | in | agreement", "no 'in' there, but stories, cost"),
        ("r | on | fidelity", "no 'fidelity' there, but agreement"),
        ("r | cost | 2 | bytes", "no '2'"),
        ("r | cost", "not a number"),
    ],
)
def test_the_role_says_what_is_missing(results, name, words):
    with pytest.raises(LookupError, match=re.escape(words)):
        measured.say(name, results)


def test_claims_by_status():
    found = measured.by_status(PAGE)
    assert set(found) <= set(STATUS) and sorted(sum(found.values(), [])) == sorted(CLAIMS)
    assert (
        measured.anchor("Equation 1: self-attention of one image") == "equation-1-self-attention-of-one-image"
    )


def share_of_meetings(one, other):
    """How much of the joints' error, one way less another, comes from clips in which two meet."""
    record = experiments.load("video")
    off = {kind: 0.0 for kind in world.clips.KINDS}
    for a, b in zip(record["rows"][one], record["rows"][other], strict=True):
        assert a["seed"] == b["seed"]
        off[world.clips.KINDS[a["seed"] % len(off)]] += a["parts"] - b["parts"]
    return off["meet"] / sum(off.values())


def test_more_than_half_of_what_the_tokens_bring_lies_where_two_meet():
    """Claims, and chapter 09 with its appendix, say so of predicted tokens, and "most" of true ones."""
    said = "More than half of what the predictor brings lies where two characters meet"
    assert said in " ".join(PAGE.split())
    assert 0.5 < share_of_meetings("straight line in tokens", "this") < 0.7
    assert 0.7 < share_of_meetings("this", "this, true tokens")


def test_what_is_said_of_a_bank():
    """Chapter 07 and the limits: it leaves the micro model's peak as it is; no loss of agreement is shown."""
    record = experiments.load("long_stories")
    for bank, passes in zip(record["cost"]["bank"], record["cost"]["passes"], strict=True):
        assert bank["bytes"] <= 1.001 * passes["bytes"]
    low, high = experiments.change(record, "agreement", "no window", "bank")[1:]
    assert low <= 0 <= high
    assert experiments.change(record, "agreement", "no window", "passes")[2] < 0, "windows lose some"
