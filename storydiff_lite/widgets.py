"""Interactive figures that work with a kernel and, from their saved state, on a page without one.

Each is an anywidget: its pictures are drawn beforehand and travel with it, so that moving a slider needs
neither Python nor a network.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from .figures import data_url

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
