"""The checkers of the graded edition: a file of the course's own, which no submission has seen."""

from __future__ import annotations

import hashlib
import importlib
import secrets
import zipfile
from pathlib import Path

from . import load_all

TRIES = 5  # seeds of cases; hardly one in a hundred makes two answers alike


def grade(checks, name: str, answer, *earlier) -> None:
    """Check an answer, then see whether the checker still rejects what is wrong.

    Parameters
    ----------
    checks : module
        The checkers, imported afresh.
    name : str
        The exercise.
    answer
        What was handed in.
    *earlier
        What was handed in for the exercises that this one builds on. A mistake in those costs no point here.

    Raises
    ------
    Wrong
        The answer is wrong.
    AssertionError
        The notebook changed something so that wrong answers pass, too.
    """
    checks.check(name, answer, *earlier)
    for called, (wrong, _) in load_all()[name].wrong.items():
        try:
            checks.check(name, wrong)
        except checks.Wrong:
            continue
        raise AssertionError(
            f"The checker lets a wrong answer pass ({called}): this notebook replaced something that "
            "checkers rely on. No point; look at its cells."
        )


def bundle(folder: Path) -> str:
    """Write the checkers with cases of their own, and these answers, into one file ``checks_....zip``.

    Parameters
    ----------
    folder : Path
        Of the course; an earlier file of this kind is removed.

    Returns
    -------
    str
        Python that gives ``_graded(name, answer, *earlier)``: for hidden tests.
    """
    token = secrets.token_hex(4)  # nothing that a notebook could prepare for
    file = folder / f"checks_{token}.zip"
    for _ in range(TRIES):
        _write(file, token, 1 + secrets.randbelow(10**6))
        code = LOADER.format(token=token, folder=str(folder.resolve()), sum=_sum(file))
        if not (wrong := _unlike(code)):
            break
    else:
        file.unlink()
        raise RuntimeError(f"On no cases that were tried are these answers told apart: {', '.join(wrong)}.")
    for old in folder.glob("checks_*.zip"):
        if old != file:
            old.unlink()
    return code


LOADER = """def _graded(name, answer, *earlier):
    # the checker imported afresh, from a file of the course, with cases of its own
    import hashlib, importlib, pathlib, sys
    places = [pathlib.Path({folder!r}), *pathlib.Path.cwd().parents]
    file = next((f for p in places if (f := p / "checks_{token}.zip").is_file()), None)
    if file is None:
        raise FileNotFoundError("checks_{token}.zip is not in the course's folder: run `make course` again.")
    if hashlib.sha256(file.read_bytes()).hexdigest() != "{sum}":
        raise ValueError("checks_{token}.zip is not as `make course` wrote it: run that again.")
    def forget():
        for module in [m for m in sys.modules if "_{token}" in m]:
            del sys.modules[module]
    forget()
    sys.path.insert(0, str(file))
    try:
        checks = importlib.import_module("checks_{token}")
        importlib.import_module("answers_{token}.grade").grade(checks, name, answer, *earlier)
    finally:
        sys.path.remove(str(file))
        forget()
"""


def _write(file, token, shift):
    from storydiff_lite import exercises

    from . import record

    here = Path(exercises.__file__).parent
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for source in sorted(here.glob("*.py")):
            text = source.read_text(encoding="utf-8")
            z.writestr(f"checks_{token}/{source.name}", text.replace("SHIFT = 0\n", f"SHIFT = {shift}\n"))
        for chapter, text in record.texts(record.record(shift=shift)).items():
            z.writestr(f"checks_{token}/known/{chapter}.json", text)
        for source in sorted(Path(__file__).parent.glob("*.py")):
            if source.name != "record.py":
                z.write(source, f"answers_{token}/{source.name}")


def _sum(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _unlike(code):
    """The exercises of which a right answer fails, or a wrong one passes, on these cases."""
    names = {}
    exec(code, names)
    importlib.invalidate_caches()
    bad = []
    for name, given in load_all().items():
        for right in given.right:
            try:
                names["_graded"](name, right)
            except Exception as error:
                # the checker says Wrong; `grade` says AssertionError where a wrong answer passes
                if type(error).__name__ not in ("Wrong", "AssertionError"):
                    raise
                bad.append(name)
    return sorted(set(bad))
