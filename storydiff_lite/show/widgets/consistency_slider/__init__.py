"""A slider over ready-made pictures."""

import anywidget
import traitlets

from ...figures import data_url
from ..shared import script_and_style


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

    Raises
    ------
    ValueError
        A series has other than one picture, alternative text or note per label, or an empty text.
    """

    _esm, _css = script_and_style(__file__)
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

    def __init__(self, pictures, labels, alts, notes=None, title="consistency", choice="story"):
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
        )
