"""The directive ``{quiz} 05-halves``: a question with choices, from ``book/quizzes/05.json``.

``book/quizzes/schema.json`` says what such a file holds. On the page ``book/assets/quiz.js`` checks the
choice and says why; without it the explanations stand folded below the question. An unknown question is a
warning, and then `jupyter-book build -W` fails.
"""

import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

QUIZZES = Path(__file__).parent.parent / "quizzes"
DIFFICULTY = {1: "easy", 2: "medium", 3: "hard"}
FENCE = re.compile(r"^```\{quiz\} (\S+)\n```$", re.M)


def questions(number: str) -> list[dict]:
    """Those of a chapter, such as "05", in order."""
    return json.loads((QUIZZES / f"{number}.json").read_text(encoding="utf-8"))


def find(name: str) -> dict:
    """The question of that id.

    Raises
    ------
    LookupError
        There is none; the message names the chapter's.
    """
    known = questions(name[:2]) if (QUIZZES / f"{name[:2]}.json").is_file() else []
    for asked in known:
        if asked["id"] == name:
            return asked
    raise LookupError(f"there is no question {name!r}; this chapter has {[q['id'] for q in known]}")


def inline(text: str) -> str:
    """Text with `code` and *emphasis*, as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def label(asked: dict) -> str:
    return f"{asked['kind'].capitalize()} · {DIFFICULTY[asked['difficulty']]} · {asked['minutes']} min"


def as_html(asked: dict) -> str:
    """For a page: radio buttons, and a folded list of all explanations in the same order."""
    name = f"quiz-{asked['id']}"
    radios, whys = [], []
    for choice in asked["choices"]:
        text = inline(choice["text"])
        verdict, mark = ("Right", " data-right") if choice.get("right") else ("Not this one", "")
        radios.append(f'<label><input type="radio" name="{name}"><span>{text}</span></label>')
        whys.append(f"<li{mark}><b>{verdict}: {text}.</b> <span>{inline(choice['why'])}</span></li>")
    return (
        f'<div class="quiz" id="{name}"><fieldset><legend><small>{label(asked)}</small> '
        f"{inline(asked['question'])}</legend>{''.join(radios)}</fieldset>"
        '<button type="button" hidden>Check</button><p role="status"></p>'
        f"<details><summary>All answers explained</summary><ul>{''.join(whys)}</ul></details></div>"
    )


def as_markdown(asked: dict) -> str:
    """For a notebook, where no script runs: every choice unfolds into its explanation."""
    folds = []
    for choice in asked["choices"]:
        verdict = "Right" if choice.get("right") else "Not this one"
        why = f"<p><b>{verdict}.</b> {inline(choice['why'])}</p>"
        folds.append(f"<details><summary>{inline(choice['text'])}</summary>\n{why}\n</details>\n")
    title = f"**{label(asked)}.** {asked['question']} *Choose, then open your answer:*"
    return "\n".join([title, "", *folds])


class Quiz(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        self.env.note_dependency(str(QUIZZES / f"{name[:2]}.json"))
        try:
            return [nodes.raw("", as_html(find(name)), format="html")]
        except LookupError as error:
            log.warning("{quiz}: %s", error, location=self.get_location())
            return []


def setup(app):
    app.add_directive("quiz", Quiz)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
