"""Model cards: what a part learnt from, for how long, where, and what it reached."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from .. import weights


def card(part, run, heldout, seed, **more) -> dict:
    """The card of what a run trained: its facts, its log, what the weights had learnt before."""
    return {
        "part": part,
        **run.facts,  # data, batch, machine, and how it learnt
        "steps": run.done,
        "seed": seed,
        "seconds": round(run.seconds),
        "torch": torch.__version__.split("+")[0],
        "heldout": rounded(heldout),
        **more,
        **({"began": run.began} if run.began else {}),
        "log": run.log[:: max(1, len(run.log) // 100)],
    }


def report(name, run, heldout):
    """Say what a run reached."""
    print(f"{name}: {run.done} steps, {run.seconds:.0f} s, held out: {rounded(heldout)}")


def rounded(x):
    """Numbers, however deep, to four digits."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return x if x is None else round(float(x), 4)


def path(name) -> Path:
    """Where the card of shipped weights lies."""
    return weights.DATA / "cards" / f"{name}.json"


def in_short(card: dict) -> dict:
    """A card without its log: what the card of a further run says of the one before."""
    return {k: v for k, v in card.items() if k != "log"}


def began(name) -> dict:
    """`in_short` of the card of shipped weights."""
    return in_short(json.loads(path(name).read_text()))


def began_in(folder) -> dict | None:
    """The same of a folder that a training wrote, or of shipped weights; None where there is no card."""
    shipped = Path(folder).resolve().parent == weights.DATA.resolve()
    file = path(Path(folder).name) if shipped else Path(folder) / "card.json"
    return in_short(json.loads(file.read_text())) if file.exists() else None


def stages(card) -> list[dict]:
    """Cards of all runs that weights went through, the first one first."""
    return [] if card is None else [*stages(card.get("began")), card]


def write(name, card, files):
    """Write the card of shipped weights, with the SHA-256 of the files that it is about."""
    card["sha256"] = {f.relative_to(weights.DATA).as_posix(): weights.sha256(f) for f in files}
    weights.atomic_save(path(name), lambda to: to.write_text(json.dumps(card, indent=1) + "\n"))


def ship(source, name):
    """Put a folder that a training wrote, with its ``card.json``, among the shipped weights."""
    if not source.exists():
        raise SystemExit(f"There is no {source}: train it first, python -m storydiff_lite.training {name}")
    folder = weights.atomic_save(weights.DATA / name, lambda to: shutil.copytree(source, to))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").unlink()
    write(name, card, sorted(folder.rglob("*.safetensors")))
    weights.write_manifest(weights.DATA)
