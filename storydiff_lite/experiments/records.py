"""Records: what an experiment measured, and what it depends on.

A record holds one row per story, seed and setting; the chapters plot it and run a small sample of it
beside it. It names the code and the weights that it measured (SHA-256): a test fails when it is older than
they are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import weights
from ..training.common import machine

RESULTS = Path(__file__).parent.parent.parent / "book" / "results"


@dataclass(frozen=True)
class Experiment:
    """What makes a record, and what its numbers depend on.

    Parameters
    ----------
    run : callable
        ``run(stories, device) -> dict``, the record.
    files : tuple of str
        Of the package, hashed whole.
    functions : tuple of callables
        Hashed with ``run``.
    weights : tuple of str
        Folders of ``data/``.
    stories : int
        How many stories the record holds.
    """

    run: Callable
    files: tuple
    functions: tuple
    weights: tuple
    stories: int = 100

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the code and of the weights that the record measures."""
        package = Path(__file__).parent.parent
        parts = [(package / f).read_text(encoding="utf-8") for f in self.files]
        parts += [inspect.getsource(f) for f in (*self.functions, self.run)]
        manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
        models = {k: v for k, v in manifest.items() if k.split("/")[0] in self.weights}
        return {
            "code": hashlib.sha256("".join(parts).encode()).hexdigest(),
            "weights": hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest(),
        }


def header(name: str, stories: int, panels: int, **more) -> dict:
    """How a record begins: what was measured, on which machine."""
    return {
        "experiment": name,
        "stories": stories,
        "seeds": f"0..{stories - 1}",
        "panels": panels,
        "machine": machine(),
        "torch": torch.__version__.split("+")[0],
        **more,
    }


def mean_and_interval(values) -> tuple[float, float, float]:
    """Mean and its 95% interval by the normal approximation; one value per story, so that stories are the
    sample.
    """
    n, m = len(values), sum(values) / len(values)
    s = math.sqrt(sum((v - m) ** 2 for v in values) / max(1, n - 1))
    half = 1.96 * s / math.sqrt(n)
    return m, m - half, m + half


def summary(rows, kinds=("agreement", "fidelity")):
    """``{"agreement": (mean, low, high), "fidelity": ..., each attribute}`` of rows of `measure`."""
    out = {}
    for kind in kinds:
        for key in rows[0][kind]:
            name = kind if key == "mean" else f"{kind}.{key}"
            out[name] = [
                round(v, 4) for v in mean_and_interval([r[kind][key] for r in rows if key in r[kind]])
            ]
    return out


def short(d):
    """A dictionary of numbers, rounded for a record."""
    return {k: round(v, 4) for k, v in d.items()}


def load(name: str) -> dict:
    """A committed record; FileNotFoundError says how to make it."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"There is no record {path.name}: make it with `python -m storydiff_lite.experiments {name}`."
        )
    return json.loads(path.read_text())


def sweep(record, settings, rows_of, kinds=("agreement", "fidelity"), only=None, summarize=None, start=None):
    """Fill a record: measure every setting in turn.

    What is done is kept in ``checkpoints/``; a run that was interrupted goes on from there, if the code and
    the weights are still the same.

    Parameters
    ----------
    record : dict
        As of `header`; gets ``settings``, ``summary``, ``seconds`` and ``rows``.
    settings : dict
        Name -> setting.
    rows_of : callable
        ``rows_of(setting) -> rows``: dicts with a ``seed`` and, for each of ``kinds``, a dict with its
        ``mean``.
    only : collection of str, optional
        Names of the settings to measure; all by default.
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
    record = _begun(record) or record | {"settings": settings} | (start or empty)
    for name, setting in tqdm(settings.items(), desc="settings"):
        if (only and name not in only) or name in record["rows"]:
            continue
        start = time.time()
        rows = rows_of(setting)
        record["rows"][name] = [{"seed": r["seed"]} | {k: r[k]["mean"] for k in kinds} for r in rows]
        record["summary"][name] = (summarize or summary)(rows, kinds)
        record["seconds"][name] = round(time.time() - start, 1)
        found = record["summary"][name]
        said = ", ".join(f"{k} {found[k][0]:.3f}" for k in kinds if k in found)
        tqdm.write(f"{name:32s} {said}  ({record['seconds'][name]} s)")
        _write(_kept(record), record)
    return {k: {n: record[k][n] for n in settings if n in v} if k in _PARTS else v for k, v in record.items()}


_PARTS = ("summary", "seconds", "rows")


def _kept(record):
    return Path("checkpoints", f"record-{record['experiment']}-{record['stories']}.json")


def _begun(record):
    """What an interrupted run of the same code on the same weights has measured, or None."""
    if not _kept(record).exists():
        return None
    found = json.loads(_kept(record).read_text())
    return found if all(found.get(k) == v for k, v in record.items()) else None


def _write(path, record):
    rest = json.dumps({k: v for k, v in record.items() if k != "rows"}, indent=1, default=str)
    text = rest.removesuffix("\n}")  # and the rows, of which there are many, each on one line
    rows = [
        f"  {json.dumps(name)}: [\n"
        + ",\n".join("   " + json.dumps(row, default=str, separators=(",", ":")) for row in some)
        + "\n  ]"
        for name, some in record["rows"].items()
    ]
    text += ',\n "rows": {\n' + ",\n".join(rows) + "\n }\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.atomic_save(path, lambda to: to.write_text(text))


def save(name: str, record: dict) -> None:
    """Write a record, all of it or nothing."""
    _write(RESULTS / f"{name}.json", record)


def same(old, new, within=2e-3):
    """Whether two rows hold the same numbers; the last digits depend on the machine."""
    return old.keys() == new.keys() and all(abs(old[k] - new[k]) <= within for k in old)


def verify(name: str, experiment: Experiment, stories: int, device="cpu") -> dict:
    """Measure the first stories of a record again, and let it stand if they come out the same.

    Code changes more often than what it computes.  A record whose code has changed, and whose weights have
    not, is measured again in part: every setting, the first ``stories`` stories.

    Returns
    -------
    dict
        The record, with the present fingerprint and, under ``verified``, how much was compared and how much
        of it was equal.

    Raises
    ------
    ValueError
        Other weights, other settings, or more than one row in twenty that differs.
    """
    record, now = load(name), experiment.fingerprint()
    if record["weights"] != now["weights"]:
        raise ValueError(f"The record {name!r} measured other weights: make it anew.")
    _kept(record | {"stories": stories}).unlink(missing_ok=True)
    again = experiment.run(stories, device)
    if json.loads(json.dumps(again["settings"], default=str)) != record["settings"]:
        raise ValueError(f"The record {name!r} measured other settings: make it anew.")
    pairs = []
    for setting, rows in again["rows"].items():
        known = {row["seed"]: row for row in record["rows"][setting]}
        pairs += [(known[row["seed"]], row) for row in rows]
    equal = sum(same(old, new) for old, new in pairs)
    if equal < 0.95 * len(pairs):
        raise ValueError(f"Of {len(pairs)} rows of {name!r}, {equal} came out the same: make it anew.")
    verified = {"rows": len(pairs), "equal": equal, "machine": machine(), "torch": again["torch"]}
    return record | now | {"verified": verified}
