"""Check what a program can check about chapters: `check_notebooks.py [FILE ...]` (default: all).

Used by `make test`, by the tests, and before each commit. Prints one line per finding; exit status 1 if there
is any.
"""

import ast
import re
import sys
from pathlib import Path

import chapters
from chapters import BEGIN, END, HIDDEN_BEGIN, HIDDEN_END, NOTEBOOKS, WIDGET_VIEW

NAME = re.compile(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*")
MACHINE_PATH = re.compile(r"(?:/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\Users)[\w.\\/-]*")
#: what libraries say of their own code, which a chapter that shows its own warnings may catch too
OTHERS_WARNING = re.compile(r"__array__|[Dd]eprecat|migration guide")
MAX_KIB = 700  # a dozen chapters must fit beside the weights; their pictures are of 128 pixels
PARAMETERS = {"PROFILE", "SEED", "DEVICE"}
ENVIRONMENT = ("STORYDIFF_PROFILE", "STORYDIFF_DEVICE")
#: tags of cells whose code a page does not show, or shows folded
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
COLUMNS = 82  # what a page of 1280 pixels shows; a longer line is cut
SCREEN = 35  # lines


def assigned(source: str) -> set[str]:
    """Names that a piece of Python gives a value."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()  # a cell with shell or magic lines
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def check_parameters(nb) -> list[str]:
    code = chapters.code_cells(nb)
    if not code or "parameters" not in chapters.tags(code[0]):
        return ["the first code cell is not tagged `parameters`: papermill would set PROFILE in vain."]
    missing = PARAMETERS - assigned(code[0].source)
    found = [f"the cell tagged `parameters` does not set {', '.join(sorted(missing))}"] if missing else []
    deaf = [name for name in ENVIRONMENT if name not in code[0].source]
    return found + [f"nbval cannot pass parameters: take PROFILE and DEVICE from {n}" for n in deaf]


def check_outputs(nb) -> list[str]:
    found = []
    code = chapters.code_cells(nb)
    unrun = [c for c in code if c.get("execution_count") is None]
    if unrun:
        first = unrun[0].source[:60]
        found.append(f"{len(unrun)} code cells were not run, the first: {first!r}. Run `make refresh`.")
    if code and not any(c.outputs for c in code):
        found.append("no cell has an output: nbval would pass without checking anything. Run `make refresh`.")
    for c in code:
        where = f"the cell {c.source[:60]!r}"
        if "nbval-check-output" in chapters.tags(c) and not c.outputs:
            found.append(f"{where} is tagged nbval-check-output and prints nothing: print what must hold")
        if "raises-exception" in chapters.tags(c):
            found.append(f"{where} is tagged raises-exception, a failure to papermill: use try and except")
        for out in c.outputs:
            if out.output_type == "error":
                found.append(f"{where} ends in an error: {out.ename}: {out.evalue[:80]}")
            if out.get("name") == "stderr":
                found.append(f"{where} prints to stderr: {out.text.strip()[:80]!r}")
            found += [f"{where}: {f}" for f in check_picture(out)]
            text = str(out.get("text", "")) + str(out.get("data", {}).get("text/plain", ""))
            path = MACHINE_PATH.search(text)
            if path:
                found.append(f"{where} prints a path of one machine: {path.group()}")
            if other := OTHERS_WARNING.search(text):
                found.append(f"{where} prints another library's warning: {other.group()!r}")
    return found


def check_picture(out) -> list[str]:
    data = out.get("data", {})
    if any(k.startswith("image/") for k in data) and "text/html" not in data and WIDGET_VIEW not in data:
        return ["shows a picture without alt text. Show it through the figure helper, with alt=..."]
    html = str(data.get("text/html", ""))
    pictures = re.findall(r"<img\b[^>]*>", html)
    mute = [t for t in pictures if not re.search(r"\balt=(\"\s*[^\"\s]|'\s*[^'\s])", t)]
    return [f"shows a picture without alt text: {mute[0][:80]}"] if mute else []


def check_exercises(nb) -> list[str]:
    """Every exercise has a folded answer between marks, and a check; answers stand nowhere else."""
    found, labels, inside = [], 0, False
    for c in nb.cells:
        for fence in chapters.fences(c):
            labels += fence == "exercise"
            if fence == "solution-start":
                if inside:
                    found.append("a {solution-start} comes before the last one's {solution-end}")
                if ":class: dropdown" not in c.source:
                    found.append("a {solution-start} lacks `:class: dropdown`: the answer would lie open")
                inside = True
            if fence == "solution-end":
                inside = False
        if c.cell_type != "code":
            continue
        for begin, end in ((BEGIN, END), (HIDDEN_BEGIN, HIDDEN_END)):
            if c.source.count(begin) != c.source.count(end):
                found.append(f"`{begin}` and `{end}` do not pair up in {c.source[:60]!r}")
        if BEGIN in c.source and not inside:
            first = c.source[:60]
            found.append(f"an answer stands outside {{solution-start}} and {{solution-end}}: {first!r}")
        if HIDDEN_BEGIN in c.source and "remove-cell" not in chapters.tags(c):
            found.append(f"hidden tests would be shown: tag the cell remove-cell: {c.source[:60]!r}")
    if inside:
        found.append("the last {solution-start} has no {solution-end}")
    if labels and not any(chapters.checks(c) for c in nb.cells):
        found.append("there are exercises, but no cell calls exercises.check(...)")
    return found


def check_code(nb) -> list[str]:
    """No line of the code that a page shows is cut, and what is said to be on one screen is."""
    found, one_screen = [], False
    for c in nb.cells:
        if c.cell_type == "markdown" and (headings := re.findall(r"^##+ (.+)", c.source, re.M)):
            one_screen = headings[-1].endswith("on one screen")
        if c.cell_type != "code" or FOLDED & set(chapters.tags(c)):
            continue
        lines = c.source.split("\n")
        where = f"the cell {c.source[:60]!r}"
        wide = [line for line in lines if len(line) > COLUMNS]
        if wide:
            found.append(
                f"{where} shows {len(wide)} lines of more than {COLUMNS} columns, the first: "
                f"{wide[0].strip()!r}. Wrap them, or tag a cell that only plots or counts hide-input."
            )
        if one_screen and len(lines) > SCREEN:
            found.append(f"{where} has {len(lines)} lines, and its heading says one screen: at most {SCREEN}")
    return found


def check(path: Path) -> list[str]:
    found = []
    if not NAME.fullmatch(path.stem):
        found.append("is not named like 00-a-story-in-one-minute.ipynb")
    try:
        nb = chapters.read(path)
    except Exception as e:
        return [*found, f"is not a readable notebook ({type(e).__name__}: {str(e)[:100]})"]
    size = path.stat().st_size / 1024
    if size > MAX_KIB:
        found.append(f"is {size:.0f} KiB large; {MAX_KIB} is the most. Show smaller or fewer pictures.")
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("does not name the kernel python3")
    return found + check_parameters(nb) + check_outputs(nb) + check_exercises(nb) + check_code(nb)


def main(names: list[str]) -> int:
    paths = [Path(n) for n in names] or sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        print(f"no notebooks in {NOTEBOOKS.name}/: expected at least one chapter", file=sys.stderr)
        return 1
    bad = 0
    for path in paths:
        for finding in check(path):
            bad += 1
            print(f"{path.name}: {finding}", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
