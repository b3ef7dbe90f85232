"""Imports run downwards, as the table "Layers" of CONTRIBUTING.md says, and the front door is light."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import storydiff_lite

PACKAGE = Path(storydiff_lite.__file__).parent
TABLE = re.search(r"^## Layers\n(.*?)^## ", (PACKAGE.parent / "CONTRIBUTING.md").read_text(), re.M | re.S)[1]
ROWS = [re.findall(r"`([\w.]+)`", line) for line in TABLE.splitlines() if line.startswith("| ")][1:]
FILES = {".".join(f.relative_to(PACKAGE).with_suffix("").parts): f for f in PACKAGE.rglob("*.py")}
FILES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}  # a package has its own name


def imported(name, file):
    """What a module imports of the package, wherever in the file the import stands."""
    parts = ["storydiff_lite", *file.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{a.name}" for a in node.names]  # modules, or what the module `base` holds
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for first, *rest in (n.split(".") for n in names):
            if first == "storydiff_lite":
                full = ".".join(rest)
                found.add(full if full in FILES else full.rpartition(".")[0] or "__init__")
    return found - {name}


GRAPH = {name: imported(name, file) for name, file in FILES.items()}


def row(name):
    """The row of a module: that of the longest name in the table which it begins with."""
    first, _, rest = name.partition(".")
    parts = [first, *rest.split(".")]
    for n in range(len(parts), 0, -1):
        for k, names in enumerate(ROWS):
            if ".".join(parts[:n]) in names:
                return k
    raise LookupError(f"{name} has no place in the table Layers of CONTRIBUTING.md.")


def test_every_module_has_a_place_and_no_place_is_empty():
    assert len(ROWS) > 4 and all(row(name) >= 0 for name in GRAPH)
    assert {n for names in ROWS for n in names} <= set(GRAPH)


def test_the_table_of_mechanisms_names_files_that_are_there():
    root = PACKAGE.parent
    lines = [line for line in (root / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line.split(" | ") for line in lines if ".py`" in line and line.count(" | ") == 3]
    assert len(rows) > 30
    for _, where, _, tests in rows:
        for name in re.findall(r"`([\w./]+)`", where):
            assert any((base / name).exists() for base in (PACKAGE, root)), name
        for name in re.findall(r"`([\w./]+)`", tests):
            assert any((base / name).exists() for base in (root / "tests", root)), name


def test_no_import_runs_upwards():
    upwards = [f"{a} imports {b}" for a, found in GRAPH.items() for b in found if row(b) < row(a)]
    assert not upwards, upwards


def test_no_circle():
    list(TopologicalSorter(GRAPH).static_order())  # names the circle, where there is one


def test_the_front_door_is_light():
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib"}
    code = (
        f"import sys, storydiff_lite; print(storydiff_lite.__version__, *sys.modules.keys() & {set(heavy)})"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, *found = got.stdout.split()
    assert version == storydiff_lite.__version__ and heavy.isdisjoint(found) and not got.stderr
    assert f"version: {storydiff_lite.__version__}\n" in (PACKAGE.parent / "CITATION.cff").read_text()


def test_the_front_door_leads_to_the_three_classes():
    from storydiff_lite import StoryJudge, StoryPipeline, TransitionPipeline, judge, pipeline, video

    assert StoryJudge is judge.StoryJudge and StoryPipeline is pipeline.StoryPipeline
    assert TransitionPipeline is video.TransitionPipeline
    assert set(storydiff_lite.__all__) <= set(dir(storydiff_lite))
    with pytest.raises(AttributeError, match="no attribute 'StoryPipelin'"):
        _ = storydiff_lite.StoryPipelin
