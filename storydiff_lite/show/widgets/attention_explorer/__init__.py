"""What a patch reads in all panels, and where a word lands; its maps are packed by `attention_view`."""

import base64
import zlib

import anywidget
import numpy as np
import torch
import traitlets

from ...figures import data_url
from ..shared import complaint, script_and_style


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
        ``tell(text, seed) -> runs`` for a story that is typed; an error of it, or an interrupt, is shown to
        the reader, who can then begin again.
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

    _esm, _css = script_and_style(__file__)
    view = traitlets.Dict().tag(sync=True)
    query = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, runs, tell=None, start=None, layers=None):
        super().__init__(view=attention_view(runs, start, layers))
        self._tell, self._settings = tell, {"start": start, "layers": layers}

    @traitlets.observe("query")
    def _answer(self, change):
        query = change["new"]
        alive = {"alive": True, "can_tell": self._tell is not None}
        if "text" not in query:
            self.answer = alive if query else {}
            return
        try:
            self.answer = alive | {
                "view": attention_view(self._tell(query["text"], query["seed"]), **self._settings),
                "asked": query,
            }
        except (Exception, KeyboardInterrupt) as error:  # without an answer the button would stay disabled
            self.answer = alive | {"error": complaint(error), "asked": query}


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
    kept = [
        (r.prompts, r.steps, [(n, r.tokens_of(n), r.grid_of(n), r.heads_of(n)) for n in r.layers], r.cross)
        for _, r in runs.values()
    ]
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
