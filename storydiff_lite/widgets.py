"""Interactive figures that work with a kernel and, from their saved state, on a page without one.

Each is an anywidget: its pictures are drawn beforehand and travel with it, so that moving a slider needs
neither Python nor a network.
"""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from PIL import Image

from .figures import data_url, enlarge

_HERE = Path(__file__).parent


def _script(name: str) -> str:
    """A widget's script with what all of them use before it."""
    return "\n".join((_HERE / file).read_text(encoding="utf-8") for file in ("element.js", name))


class ConsistencySlider(anywidget.AnyWidget):
    """A slider over pictures, and a choice between several series of them.

    Parameters
    ----------
    pictures : dict
        Name of a series (such as ``"seed 0"``) -> one picture per position of the slider.
    labels : list of str
        What each position of the slider is called.
    alts : dict
        Name of a series -> alternative text of each of its pictures.
    notes : dict, optional
        Name of a series -> a line below each of its pictures, such as a measured number.
    title : str
        What the slider sets.
    choice : str
        What the series are (the label of the choice; it is shown where there are several).
    index : int
        Position of the slider at first.

    Raises
    ------
    ValueError
        A series has other than one picture, alternative text or note per label, or an empty text.
    """

    _esm = _script("consistency_slider.js")
    _css = _HERE / "consistency_slider.css"
    title = traitlets.Unicode().tag(sync=True)
    choice = traitlets.Unicode().tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    series = traitlets.List(traitlets.Unicode()).tag(sync=True)
    urls = traitlets.List().tag(sync=True)  # [series][position]
    alts = traitlets.List().tag(sync=True)
    notes = traitlets.List().tag(sync=True)
    width = traitlets.Int().tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)

    def __init__(self, pictures, labels, alts, notes=None, title="consistency", choice="story", index=0):
        labels = [str(x) for x in labels]
        if not pictures or not labels:
            raise ValueError("A slider needs at least one series of pictures and one label.")
        notes = notes or {name: [""] * len(labels) for name in pictures}
        for what, texts in (("pictures", pictures), ("alternative texts", alts), ("notes", notes)):
            for name in pictures:
                n = len(texts.get(name, ()))
                if n != len(labels):
                    raise ValueError(
                        f"Series {name!r} has {n} {what} for {len(labels)} labels: give one for each."
                    )
        if any(not str(t).strip() for name in pictures for t in alts[name]):
            raise ValueError("Every picture of a slider needs an alternative text that says what it shows.")
        if not 0 <= index < len(labels):
            raise ValueError(f"index is {index}; the slider has positions 0 to {len(labels) - 1}.")
        drawn = [[data_url(p) for p in row] for row in pictures.values()]
        super().__init__(
            title=title,
            choice=choice,
            labels=labels,
            series=[str(name) for name in pictures],
            urls=[[url for url, _ in row] for row in drawn],
            alts=[list(alts[name]) for name in pictures],
            notes=[list(notes[name]) for name in pictures],
            width=max(size[0] for row in drawn for _, size in row),
            index=index,
        )


class TokenExplorer(anywidget.AnyWidget):
    """A prompt as chips, before and after its class token was expanded.

    On a page without a kernel the reader chooses among ``prompts``; with one, any prompt can be typed.

    Parameters
    ----------
    prompts : list of str
        Prompts to choose from.
    explain : callable
        ``explain(prompt, count) -> {"rows": [(name, [(text, id, kind), ...]), ...]}`` or ``{"error":
        message}``; ``kind`` is ``"text"``, ``"special"``, ``"padding"``, ``"class"`` or ``"trigger"``.
    counts : list of int
        Numbers of reference pictures to choose from.

    Raises
    ------
    ValueError
        No prompts, or no counts.
    """

    _esm = _script("token_explorer.js")
    _css = _HERE / "token_explorer.css"
    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    counts = traitlets.List(traitlets.Int()).tag(sync=True)
    table = traitlets.List().tag(sync=True)  # [prompt]{count: view}
    query = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, prompts, explain, counts=(1, 2, 3, 4)):
        prompts, counts = [str(p) for p in prompts], [int(n) for n in counts]
        if not prompts or not counts:
            raise ValueError("A token explorer needs at least one prompt and one number of pictures.")
        table = [{str(n): explain(p, n) for n in counts} for p in prompts]
        super().__init__(prompts=prompts, counts=counts, table=table)
        self._explain = explain

    @traitlets.observe("query")
    def _asked(self, change):
        asked = change["new"]
        if "text" in asked:
            view = self._explain(asked["text"], asked["count"])
            self.answer = {"rows": [], **view, "alive": True, "asked": asked}
        elif asked:
            self.answer = {"alive": True}


class AttentionExplorer(anywidget.AnyWidget):
    """A story's panels: what a patch of one reads in all of them, and where a word of the prompt lands.

    All maps travel with it, packed to few shades (`LEVELS`), so that a page without a kernel answers too;
    with one, the reader can type another story.

    Parameters
    ----------
    runs : dict
        Name of a rate (such as ``"0.5"``) -> (StoryOutput, AttentionRecorder that watched it); all of one
        story, recorded with the same steps, layers and grid, ``heads="each"`` and ``cross=True``.
    tell : callable, optional
        ``tell(text, seed) -> runs`` for a story that is typed; a ValueError or TypeError of it is shown to
        the reader.
    start : dict, optional
        What is shown at first: ``rate``, ``step``, ``layer``, ``panel``, ``cell``, ``word``, each a position
        counted from 0; the middle ones are taken for those left out.
    layers : list of str, optional
        Which of the recorded layers are shown, in this order, by the beginnings of their names; all by
        default.

    Raises
    ------
    ValueError
        No runs, or recorders that differ in what they kept.
    KeyError
        A layer that was not recorded.
    """

    LEVELS = {"patches": 5, "words": 30}  # maps of words are few

    _esm = _script("attention_explorer.js")
    _css = _HERE / "attention_explorer.css"
    view = traitlets.Dict().tag(sync=True)
    query = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, runs, tell=None, start=None, layers=None):
        super().__init__(view=attention_view(runs, start, layers))
        self._tell, self._settings = tell, {"start": start, "layers": layers}

    @traitlets.observe("query")
    def _asked(self, change):
        asked = change["new"]
        alive = {"alive": True, "can_tell": self._tell is not None}
        if "text" not in asked:
            self.answer = alive if asked else {}
            return
        try:
            self.answer = alive | {
                "view": attention_view(self._tell(asked["text"], asked["seed"]), **self._settings),
                "asked": asked,
            }
        except (ValueError, TypeError) as error:
            self.answer = alive | {"error": str(error), "asked": asked}


def attention_view(runs, start=None, layers=None) -> dict:
    """What an `AttentionExplorer` shows, as plain data: pictures as addresses, maps packed.

    Parameters
    ----------
    runs, start, layers
        As of `AttentionExplorer`.

    Returns
    -------
    dict
        ``maps[rate][step][layer]`` holds, each deflated and in base64: ``codes``, ``tops`` [heads, F, P]
        (`_pack`); ``mass`` uint8 [heads, F, P, F]; ``marks``, a bit for each token that may be read [F, N];
        ``peaks`` uint16 [heads and mean, F, P, 2], the patch that is read most in the other panels and its
        share; ``wordCodes``, ``wordTops`` [heads, words].
    """
    if not runs:
        raise ValueError("An attention explorer needs at least one run: {rate: (output, recorder)}.")
    first = next(iter(runs.values()))[1]
    layers = [first.layer(n) for n in layers or first.layers]
    kept = [(r.prompts, r.steps, r.layers, r._grids, r._heads, r.cross) for _, r in runs.values()]
    same = all(k == kept[0] for k in kept) and len({first.grid_of(n) for n in layers}) == 1
    if not same or not first.cross or not all(first.heads_of(n) for n in layers):
        raise ValueError(
            "All runs must be recorded of one story, with the same steps, layers and grid (a number, so that "
            "all layers have the same patches), with heads='each' and cross=True."
        )
    words = {w.lower(): w for panel in range(first.panels) for w, _ in first.words(panel)}
    words = [*words.values(), "(begin)", "(end)", "(padding)"]  # what no word is comes last
    has = [[bool(_places(first, j, w)) for j in range(first.panels)] for w in words]
    rows, columns = first.grid_of(layers[0])
    long = [i for i, w in enumerate(words) if len(w) > 3 and all(has[i])]
    begin = {
        "rate": len(runs) // 2,
        "step": len(first.steps) // 2,
        "layer": len(layers) // 2,
        "panel": 0,
        "cell": rows // 2 * columns + columns // 2,
        "word": long[0] if long else 0,
    }
    return {
        "prompts": first.prompts,
        "grid": [rows, columns],
        "rates": [str(name) for name in runs],
        "steps": [str(s) for s in first.steps],
        "layers": [
            {
                "label": _layer_label(n, first.tokens_of(n)),
                "heads": len(first.heads_of(n)),
                "tokens": list(first.tokens_of(n)),
            }
            for n in layers
        ],
        "words": words,
        "has": has,
        "levels": AttentionExplorer.LEVELS["patches"],
        "wordLevels": AttentionExplorer.LEVELS["words"],
        "pictures": [[data_url(i)[0] for i in output.images] for output, _ in runs.values()],
        "maps": [[[_packed(r, s, n, words) for n in layers] for s in r.steps] for _, r in runs.values()],
        "start": begin | (start or {}),
    }


def _layer_label(name, tokens):
    """``"up_blocks.1.attentions.0. ..."`` -> ``"up 1.0, 16×16 tokens"``."""
    place = ".".join(part for part in name.split(".transformer_blocks")[0].split(".") if part.isdigit())
    return f"{name.split('_')[0]} {place}, {tokens[0]}×{tokens[1]} tokens"


def _places(recorder, panel, word):
    """Columns of a cross-attention map that a word (or what no word is) has in a panel's prompt."""
    special = {"(begin)": [0], "(end)": [len(recorder.tokens[panel]) - 1], "(padding)": [-1]}
    if word in special:
        return special[word]
    return [p for w, places in recorder.words(panel) if w.lower() == word.lower() for p in places]


def _pack(x, levels):
    """Rows [..., X] of shares -> codes uint8 [..., X] and each row's largest number, uint16 [...].

    value = top / 65535 * (code / levels)**2: the shades are even in the square root, as the colours are.
    """
    top = x.amax(-1, keepdim=True)
    codes = (x / top.clamp(min=1e-30)).sqrt().mul(levels).round()
    return codes.numpy().astype(np.uint8), (top[..., 0] * 65535).round().numpy().astype("<u2")


def _deflated(array):
    return base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()


def _packed(recorder, step, layer, words):
    """The packed maps of a step and layer, see `attention_view`."""
    heads, f = recorder.heads_of(layer), recorder.panels
    maps = torch.stack([recorder.map(step, layer, h) for h in heads])  # [h, F, P, F, P]
    codes, tops = _pack(maps.flatten(3), AttentionExplorer.LEVELS["patches"])
    others = torch.cat([maps, maps.mean(0, keepdim=True)])  # [h + 1, F, P, F, P]
    others = others * (1 - torch.eye(f))[:, None, :, None]  # one's own panel does not count
    share, where = others.flatten(3).max(-1)  # [h + 1, F, P]
    peaks = np.stack([where.numpy(), (share * 65535).round().numpy()], -1).astype("<u2")
    mass = torch.stack([recorder.mass(step, layer, h) for h in heads])  # [h, F, P, F]
    landing = torch.zeros(len(heads), len(words), f, maps.shape[2])
    for k, h in enumerate(heads):
        cross = recorder.cross_map(step, layer, h)  # [F, P, X]
        for w, word in enumerate(words):
            for j in range(f):
                landing[k, w, j] = cross[j][:, _places(recorder, j, word)].sum(-1)
    word_codes, word_tops = _pack(landing.flatten(2), AttentionExplorer.LEVELS["words"])
    return {
        "codes": _deflated(codes),
        "tops": _deflated(tops),
        "mass": _deflated((mass * 255).round().numpy().astype(np.uint8)),
        "marks": _deflated(np.packbits(recorder.sampled(step, layer).numpy().ravel())),
        "peaks": _deflated(peaks),
        "wordCodes": _deflated(word_codes),
        "wordTops": _deflated(word_tops),
    }


class MotionScrubber(anywidget.AnyWidget):
    """A motion, frame by frame: what happens, and the true pictures that two sets of tokens are nearest to.

    Parameters
    ----------
    clips : dict
        Name of a clip -> what is known of it: ``pictures``, true pictures at equal times, more of them than
        frames; ``shown`` {``"truth"``, ``"predicted"``, ``"line"``: which of the pictures, for each frame};
        ``paths`` {the same names: a place (x, y) for each frame, in some plane}; ``alts`` {the same names: a
        text for each frame}; ``notes``, a line for each frame; ``plane``, a text on the drawn paths.
    labels : dict
        What stands below the three pictures, by the same names.
    plane : str
        What stands below the drawing of the paths.
    side : int
        Pixels of a picture's side.
    index : int
        Frame at first.

    Raises
    ------
    ValueError
        No clips, clips with different numbers of frames, an empty text, or a number of a picture that is not
        there.
    """

    SERIES = ("truth", "predicted", "line")

    _esm = _script("motion_scrubber.js")
    _css = _HERE / "motion_scrubber.css"
    view = traitlets.Dict().tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)

    def __init__(self, clips, labels, plane, side=104, index=0):
        if not clips:
            raise ValueError("A scrubber needs at least one clip.")
        frames = {
            len(c[what][s])
            for c in clips.values()
            for what in ("shown", "paths", "alts")
            for s in self.SERIES
        }
        frames |= {len(c["notes"]) for c in clips.values()}
        if len(frames) != 1:
            raise ValueError(
                "Every clip needs a picture, a place, a text and a note for each frame, all as many frames; "
                f"there are {sorted(frames)} of them."
            )
        for name, c in clips.items():
            n = len(c["pictures"])
            if any(not 0 <= k < n for s in self.SERIES for k in c["shown"][s]):
                raise ValueError(
                    f"Clip {name!r} shows a picture that it does not have: they are 0 to {n - 1}."
                )
            if not c["plane"].strip() or any(not t.strip() for s in self.SERIES for t in c["alts"][s]):
                raise ValueError(
                    f"Clip {name!r} has an empty text: every picture needs one that says what it shows."
                )
        if not 0 <= index < (count := frames.pop()):
            raise ValueError(f"index is {index}; the scrubber has frames 0 to {count - 1}.")
        view = {
            "series": [{"key": s, "label": labels[s]} for s in self.SERIES],
            "plane": plane,
            "clips": [
                {
                    "name": str(name),
                    "sprite": _sprite(c["pictures"], side),
                    "side": side,
                    "shown": {s: [int(k) for k in c["shown"][s]] for s in self.SERIES},
                    "paths": {
                        s: [[round(float(v), 3) for v in p] for p in c["paths"][s]] for s in self.SERIES
                    },
                    "alts": {s: list(c["alts"][s]) for s in self.SERIES},
                    "notes": list(c["notes"]),
                    "plane": c["plane"],
                }
                for name, c in clips.items()
            ],
        }
        super().__init__(view=view, index=index)


def _sprite(pictures, side):
    """Pictures side by side in one image, without gaps, as a ``data:`` address (WebP)."""
    sheet = Image.new("RGB", (side * len(pictures), side))
    for i, p in enumerate(pictures):
        sheet.paste(enlarge(p, side), (i * side, 0))
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=75, method=6)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
