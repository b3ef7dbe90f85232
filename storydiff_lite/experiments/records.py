"""Records: what an experiment measured, and what it depends on.

A record holds one row per story, seed and setting; the chapters plot it and run a small sample of it
beside it.  Its evidence is its numbers, its settings and the hash of the *weights* that it measured: a test
fails when these have changed.  Code is not hashed, so that tidying is free.  Instead a few *golden* rows are
measured again by a test, on a CPU, by the code that measures the record: it fails when they come out
otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import weights
from ..defects import cleanliness
from ..judge import FREE, agreement, faithfulness
from ..training.common import machine

RESULTS = Path(__file__).parent.parent.parent / "book" / "results"
#: what draws panels, of the shipped weights
PANELS = tuple(f"micro/{part}" for part in ("scheduler", "text_encoder", "text_encoder_2", "unet", "vae"))
#: what a story's prompts name, or leave free: what fidelity and agreement are counted from
COUNTED = ("species", *FREE, "action", "scene")
#: how far golden numbers may be from what was recorded, where an experiment says nothing else
WITHIN = 5e-3


@dataclass(frozen=True)
class Experiment:
    """What makes a record, and what its numbers depend on.

    Parameters
    ----------
    run : callable
        ``run(stories, device) -> dict``, the record without its golden rows.
    opened : callable, optional
        ``opened(device) -> rows_of``, and ``rows_of(setting, seeds) -> rows`` measures some stories, by the
        seeds of their rows.  ``run`` measures with it too.  None: nothing can be measured from a clone.
    kinds : tuple of str
        The numbers of a row: agreement, fidelity, ...
    weights : tuple of str
        Of the shipped files, those that the numbers depend on: folders or files of ``data/``, such as
        ``"judge"`` or ``"micro/unet"``.
    stories : int
        How many stories the record holds.
    golden : tuple of str
        Settings of which a row is golden: one for each way through the code, where that is cheap.
    within : dict
        Kind -> how far a golden number may be from what was recorded; `WITHIN` for others.
    note : str
        How golden rows are otherwise than those of the record, if they are; then the first ones are taken.
    left_out : str
        Which settings cannot be measured again from a clone, and why.
    earlier : bool
        It may have measured weights that have changed since (`changed` says which), because it cannot
        be measured from a clone: what it compares was trained for it on a GPU.
    """

    run: Callable
    opened: Callable | None
    kinds: tuple
    weights: tuple
    stories: int = 100
    golden: tuple = ()
    within: dict = field(default_factory=dict)
    note: str = ""
    left_out: str = ""
    earlier: bool = False

    def fingerprint(self) -> dict:
        """``{"weights": {part: SHA-256}}`` of what the record measures."""
        manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
        return {"weights": {part: digest(manifest, part) for part in self.weights}}

    def changed(self, record: dict) -> str:
        """In words, which of the shipped weights are not those that a record measured; "" where all are."""
        now = self.fingerprint()["weights"]
        parts = [part for part, found in record["weights"].items() if now.get(part) != found]
        return f"measured with earlier weights of {', '.join(parts)}" if parts else ""

    def make(self, stories=None, device="cpu") -> dict:
        """The record, with its golden rows."""
        return self.gild(self.run(stories or self.stories, device))

    def gild(self, record: dict) -> dict:
        """A record with golden rows, measured on a CPU wherever the record was; nothing else is measured.

        Raises
        ------
        ValueError
            The record measured other weights.
        """
        if not self.earlier and record["weights"] != self.fingerprint()["weights"]:
            raise ValueError(f"The record {record['experiment']!r} measured other weights: make it anew.")
        surest = {} if self.note else record.get("surest", {})
        rows = self._measured(record, {name: surest.get(name, 0) for name in self.golden})
        rule = SUREST if surest else FIRST
        about = {"rule": rule, "machine": machine(), "torch": version()} if rows else {}
        about |= {k: v for k in ("note", "left_out") if (v := getattr(self, k))}
        return record | {"golden": about | {"rows": rows}}

    def differences(self, record: dict) -> list[str]:
        """Measure a record's golden rows again: what is not as recorded, in words."""
        olds = record["golden"]["rows"]
        news = self._measured(record, {old["setting"]: old["seed"] for old in olds})
        pairs = zip(olds, news, strict=True)
        return [f"{a['setting']}: {words}" for a, b in pairs for words in apart(a, b, self.within)]

    def _measured(self, record, seeds):
        """Golden rows of ``{setting: seed}``."""
        rows_of = self.opened("cpu") if seeds else None
        rows = {n: rows_of(record["settings"][n], [i]) for n, i in tqdm(seeds.items(), desc="golden rows")}
        return [{"setting": name} | golden(row, self.kinds) for name, (row,) in rows.items()]


def digest(manifest: dict, part: str) -> str:
    """SHA-256 over the files of a manifest that are ``part``, or lie in it."""
    files = {k: v for k, v in manifest.items() if k == part or k.startswith(f"{part}/")}
    if not files:
        raise ValueError(f"No shipped weights lie under {part!r}.")
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def version() -> str:
    """Of torch."""
    return torch.__version__.split("+")[0]


def header(name: str, stories: int, panels: int, **more) -> dict:
    """How a record begins: what was measured, on which machine."""
    return {
        "experiment": name,
        "stories": stories,
        "seeds": f"0..{stories - 1}",
        "panels": panels,
        "machine": machine(),
        "torch": version(),
        **more,
    }


# ------------------------------------------------------------------------------------------ golden rows
#: how golden rows are chosen: all that matters is that another machine reads the same
SUREST = (
    "Under each setting named here the story that the judge reads with least doubt, however good it is: by "
    "`lead`, how far the most probable class is ahead of the second in the least certain reading. Measured "
    "on a CPU, in float32."
)
FIRST = "Under each setting named here the first, under one noise; measured on a CPU, in float32."


def reading(judge, images, attributes=COUNTED):
    """What the judge reads, and how sure it is.

    Returns
    -------
    list of dict
        Of each picture, as of `StoryJudge.names`.
    dict
        For a row: ``read``, the names attribute by attribute, and ``lead``, how far the most probable class
        is ahead of the second, the least over pictures and attributes.
    """
    names, read = judge.names(images), judge.read(images)
    first, second = torch.stack([read[k].topk(2).values for k in attributes]).unbind(-1)
    lead = round(float((first - second).min()), 4)
    return names, {"lead": lead, "read": {k: [n[k] for n in names] for k in attributes}}


def judged(judge, images, prompts, defects=None):
    """What the judges make of a story.

    Returns
    -------
    list of dict
        What was read of each panel, as of `StoryJudge.names`.
    dict
        For a row: ``agreement`` of the free attributes, ``fidelity`` to the prompts, `reading` and, with a
        `DefectJudge`, `clean_panels`.
    """
    names, read = reading(judge, images)
    row = {"agreement": agreement(names, FREE), "fidelity": faithfulness(names, prompts)}
    row = {k: short(v) for k, v in row.items()}
    return names, row | read | clean_panels(defects, images, prompts)


def mean_agreement(pairs) -> dict:
    """Agreement of the free attributes, attribute by attribute, mean over pairs of names."""
    found = [agreement(list(pair), FREE) for pair in pairs]
    return {k: sum(f[k] for f in found) / len(found) for k in found[0]}


def clean_panels(defects, images, prompts) -> dict:
    """For a row: ``{"clean": {"mean": 0 to 1}}``, the fraction of clean pictures; nothing without a judge."""
    return {"clean": short(cleanliness(defects, images, prompts))} if defects else {}


def golden(row, kinds) -> dict:
    """What is kept of a golden row: its numbers (a shorter story may lack some), and what was read."""
    found = {k: row[k]["mean"] for k in kinds if k in row}
    return {"seed": row["seed"]} | found | {k: row[k] for k in ("lead", "read") if k in row}


def apart(old, new, within=None) -> list[str]:
    """What two golden rows differ in, in words; numbers may differ ``within``, as of `Experiment`."""
    found = []
    for kind in old.keys() | new.keys():
        a, b = old.get(kind), new.get(kind)
        if kind == "lead":
            continue
        if isinstance(a, int | float) and isinstance(b, int | float):
            if abs(a - b) > (within or {}).get(kind, WITHIN):
                found.append(f"{kind} of {old['seed']} was {a:.4f} and is {b:.4f}")
        elif a != b:
            found.append(f"{kind} of {old['seed']} was {a} and is {b}")
    return found


# ------------------------------------------------------------------------------------------ summaries
def mean_and_interval(values) -> tuple[float, float, float]:
    """Mean and its 95% interval by the normal approximation; one value per story, so that stories are the
    sample.
    """
    n, m = len(values), sum(values) / len(values)
    s = math.sqrt(sum((v - m) ** 2 for v in values) / max(1, n - 1))
    half = 1.96 * s / math.sqrt(n)
    return m, m - half, m + half


def interval(values, digits=4) -> list[float]:
    """`mean_and_interval`, rounded for a record."""
    return [round(v, digits) for v in mean_and_interval(values)]


def change(record: dict, kind: str, one: str, other: str) -> tuple[float, float, float]:
    """Mean and interval of how a number changes from one setting of a record to another, story by story."""
    pairs = zip(record["rows"][one], record["rows"][other], strict=True)
    return mean_and_interval([b[kind] - a[kind] for a, b in pairs if None not in (a[kind], b[kind])])


def summary(rows, kinds=("agreement", "fidelity"), digits=4):
    """``{"agreement": (mean, low, high), "fidelity": ..., each attribute}`` of rows of `measure`, without
    those that lack a number.
    """
    out = {}
    for kind in kinds:
        for key in rows[0][kind]:
            values = [r[kind][key] for r in rows if r[kind].get(key) is not None]
            if values:
                out[kind if key == "mean" else f"{kind}.{key}"] = interval(values, digits)
    return out


def quote(record: dict, setting: str, kind: str = "agreement", called: str = "") -> str:
    """What a record says of a setting, for the line below a picture that stands for it.

    Parameters
    ----------
    record : dict
        As of `load`.
    setting : str
        One of its settings.
    kind : str
        Which of its numbers.
    called : str, optional
        The number's name on the page, where ``kind`` is not it.

    Returns
    -------
    str
        Such as ``"In the record, mean of 60: agreement 0.88 (95% interval 0.85 to 0.91)."``.

    Raises
    ------
    KeyError
        The record has no such setting or number; the message names those that it has.
    """
    for name, there in ((setting, record["summary"]), (kind, record["summary"].get(setting, {}))):
        if name not in there:
            raise KeyError(f"The record has no {name!r}. It has: {', '.join(there)}.")
    mean, low, high = record["summary"][setting][kind]
    said = f"{called or kind} {mean:.2f} (95% interval {low:.2f} to {high:.2f})"
    return f"In the record, mean of {record['stories']}: {said}."


def short(d):
    """A dictionary of numbers, rounded for a record."""
    return {k: round(v, 4) for k, v in d.items()}


# ------------------------------------------------------------------------------------------ making them
def load(name: str) -> dict:
    """A committed record; FileNotFoundError says how to make it."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"There is no record {path.name}: make it with `python -m storydiff_lite.experiments {name}`."
        )
    return json.loads(path.read_text())


def sweep(record, settings, rows_of, kinds=("agreement", "fidelity"), summarize=None, start=None):
    """Fill a record: measure every setting in turn.

    What is done is kept in ``checkpoints/`` until the record is saved; a run that was interrupted goes on
    from there, if its settings and the weights are still the same.

    Parameters
    ----------
    record : dict
        As of `header`; gets ``settings``, ``summary``, ``seconds``, ``rows`` and, where a judge read,
        ``surest``: the seed of the row that it had least doubt about.
    settings : dict
        Name -> setting.
    rows_of : callable
        ``rows_of(setting) -> rows``: dicts with a ``seed`` and, for each of ``kinds``, a dict with its
        ``mean``.
    summarize : callable, optional
        ``summarize(rows, kinds)``, instead of `summary`.
    start : dict, optional
        ``summary``, ``seconds`` and ``rows`` of settings that need not be measured again.

    Returns
    -------
    dict
        The record.
    """
    empty = {"summary": {}, "seconds": {}, "rows": {}}
    record = record | {"settings": settings}
    record = _begun(record) or record | (start or empty)
    for name, setting in tqdm(settings.items(), desc="settings"):
        if name in record["rows"]:
            continue
        begun = time.time()
        rows = rows_of(setting)
        record["rows"][name] = [{"seed": r["seed"]} | {k: r[k]["mean"] for k in kinds} for r in rows]
        record["summary"][name] = (summarize or summary)(rows, kinds)
        if all("lead" in r for r in rows):
            record.setdefault("surest", {})[name] = max(rows, key=lambda r: r["lead"])["seed"]
        record["seconds"][name] = round(time.time() - begun, 1)
        found = record["summary"][name]
        reached = ", ".join(f"{k} {found[k][0]:.3f}" for k in kinds if k in found)
        tqdm.write(f"{name:32s} {reached}  ({record['seconds'][name]} s)")
        _write(_kept(record), record)
    return {k: {n: v[n] for n in settings if n in v} if k in _PARTS else v for k, v in record.items()}


_PARTS = ("summary", "seconds", "surest", "rows")


def _kept(record):
    return Path("checkpoints", f"record-{record['experiment']}-{record['stories']}.json")


def _begun(record):
    """What an interrupted run of the same settings on the same weights has measured, or None."""
    if not _kept(record).exists():
        return None
    found, wanted = json.loads(_kept(record).read_text()), json.loads(json.dumps(record, default=str))
    return found | record if all(found.get(k) == v for k, v in wanted.items()) else None


def _write(path, record):
    lines = []  # rows, of which there are many: each on one line

    def on_a_line(rows):
        lines.extend(json.dumps(row, default=str, separators=(",", ":")) for row in rows)
        return [f"line {i}" for i in range(len(lines) - len(rows), len(lines))]

    last = {"rows": {name: on_a_line(rows) for name, rows in record["rows"].items()}}
    if "golden" in record:
        last = {"golden": record["golden"] | {"rows": on_a_line(record["golden"]["rows"])}} | last
    text = json.dumps({k: v for k, v in record.items() if k not in last} | last, indent=1, default=str)
    text = re.sub(r'"line (\d+)"', lambda found: lines[int(found[1])], text)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.atomic_save(path, lambda to: to.write_text(text + "\n"))


def save(name: str, record: dict) -> None:
    """Write a record, all of it or nothing; what an interrupted run of it had kept goes."""
    _write(RESULTS / f"{name}.json", record)
    _kept(record).unlink(missing_ok=True)
