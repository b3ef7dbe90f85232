"""The files of the page that draws, as they lie in the site: scripts, because a page opened from a folder can
load nothing else.

A script hands one part over: ``storyMachine.part(NAME, VALUE)``. Bytes are packed with gzip and written as
text, 15 bits a character, in a UTF-16 file with a byte order mark, which browsers believe before any header:
7% more than the bytes themselves, where base64 costs 33.
"""

import gzip
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .. import int8, weights, world
from . import runtime

PAGE = Path(__file__).parent / "page"
#: the files of `page/`, folder by folder, in the order in which they are put together
SCRIPTS = {
    "reader": ("elements", "examples", "mentions", "story", "png", "form", "pictures", "explorer", "machine"),
    "worker": ("words", "random", "reading", "subject", "solvers", "pictures", "maps", "worker"),
}
#: what is made from the weights, and kept; the other scripts cost nothing
MODEL = "micro-int8"
#: the first character: none below it is a quotation mark or a line's end, none above it half of a pair
FIRST = 0x100


def to_text(data):
    """Bytes as characters of 15 bits each, U+0100 to U+80FF, in UTF-16 (little endian)."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits = np.concatenate([bits, np.zeros(-len(bits) % 15, np.uint8)]).reshape(-1, 15)
    numbers = bits @ (1 << np.arange(14, -1, -1)).astype(np.uint32) + FIRST
    return numbers.astype("<u2").tobytes()


def bytes_script(name, data):
    """A script that hands over bytes: their packed length and text."""
    packed = gzip.compress(data, 9, mtime=0)
    head, tail = f'storyMachine.part("{name}",[{len(packed)},"', '"]);\n'
    return b"\xff\xfe" + head.encode("utf-16-le") + to_text(packed) + tail.encode("utf-16-le")


def value_script(**values):
    """A script that hands over texts, numbers and lists, in plain letters: any charset reads them."""
    return "".join(
        f"storyMachine.part({json.dumps(k)}, {json.dumps(v)});\n" for k, v in values.items()
    ).encode()


def weights_print():
    """Sixteen digits that change with the weights that the page draws with."""
    from ..tell.fingerprint import model_print

    return model_print(MODEL)


def cache_name():
    """The name of the folder of what was exported: another one when weights, code or exporter change."""
    from .export import PACKAGES, require

    require(*PACKAGES)
    sources = [
        *sorted(Path(__file__).parent.glob("*.py")),
        Path(int8.__file__),
        runtime.VENDOR / "runtime.json",
    ]
    found = hashlib.sha256(weights_print().encode())
    for file in sources:
        found.update(file.read_bytes())
    for package in ("torch", "diffusers", *PACKAGES):
        found.update(f"{package} {version(package)}".encode())
    return f"story-machine-{found.hexdigest()[:16]}"


def export(folder, say=lambda text: None):
    """Write the parts that are made from the weights (text, unet, decoder, meta) and the runtime (wasm, ort).

    Parameters
    ----------
    folder : Path
        Written whole or not at all.
    say : callable, optional
        Told what is at work.
    """
    from ..pipeline import StoryPipeline
    from .export import describe, graphs
    from .modules import vocabulary

    def write(to):
        to.mkdir()
        pipe = StoryPipeline.from_pretrained(MODEL)
        words, kept = vocabulary(pipe.tokenizer)
        found, sizes = runtime.scripts(), {}
        meta = describe(pipe, words, kept, weights_print())
        for name, graph in graphs(pipe, kept):
            say(f"{name}: {len(graph) / 1e6:.1f} MB")
            (to / f"{name}.js").write_bytes(bytes_script(name, graph))
        (to / "wasm.js").write_bytes(bytes_script("wasm", found["wasm"]))
        (to / "ort.js").write_bytes(value_script(ort=found["ort"], mjs=found["mjs"]))
        sizes = {f.stem: f.stat().st_size for f in sorted(to.glob("*.js"))}
        (to / "meta.js").write_bytes(value_script(meta=meta | {"bytes": sizes}))

    return weights.atomic_save(Path(folder), write)


def page_scripts():
    """What runs in the page, from `page/`: name -> bytes.

    The files of a folder are one script with one scope: a page opened from a folder can load no modules.
    """

    def script(folder):
        files = {f.stem: f.read_text(encoding="utf-8") for f in (PAGE / folder).glob("*.js")}
        return "\n".join(['(() => {\n"use strict";', *(files[n] for n in SCRIPTS[folder]), "})();\n"])

    return {
        "machine.js": f"{(PAGE / 'engine.js').read_text(encoding='utf-8')}\n{script('reader')}".encode(),
        "machine.css": (PAGE / "machine.css").read_bytes(),
        "worker-code.js": value_script(worker=script("worker")),
    }


def build(folder, cache, say=lambda text: None):
    """Write all files of the page that draws.

    Parameters
    ----------
    folder : Path
        Gets them; what else is in it stays.
    cache : Path
        Keeps what was exported, in a folder of its own for these weights and this code; older ones go.
    say : callable, optional
        Told what is at work, in the half minute that an export takes.

    Returns
    -------
    dict
        Name -> bytes on disk.
    """
    folder, cache = Path(folder), Path(cache)
    name = cache_name()
    if not (cache / name).is_dir():
        say("exporting the story models (half a minute, once for these weights and this code) ...")
        export(cache / name, say)
        _drop_others(cache, name)
    folder.mkdir(parents=True, exist_ok=True)
    files = {f.name: f.read_bytes() for f in sorted((cache / name).iterdir())} | page_scripts()
    for file, data in files.items():
        if not (folder / file).exists() or (folder / file).read_bytes() != data:
            weights.atomic_save(folder / file, lambda to, data=data: to.write_bytes(data))
    return {file: len(data) for file, data in files.items()}


def _drop_others(cache, name):
    import shutil

    for old in cache.glob("story-machine-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)


def suggestions():
    """What a reader can choose from to write a panel: who, what they do, and where."""
    return {
        "who": [world.article(s) for s in world.SPECIES],
        "action": list(world.ACTIONS.values()),
        "scene": list(world.SCENES.values()),
    }
