"""A motion frame by frame, beside what two sets of tokens are nearest to."""

import base64
import io

import anywidget
import traitlets
from PIL import Image

from ...figures import enlarge
from ..shared import script_and_style


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

    _esm, _css = script_and_style(__file__)
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
