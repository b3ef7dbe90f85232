"""Regions: who may read whom, token by token, where a panel shows several characters.

Each of them has a part of the panel: by order of mention from left to right, or where the story says.  The
rule of `cast` then holds for regions as it does for panels:

    C_ir      the characters of region r of panel i: one of those of a panel of several, all of another panel
    R_ir      = { (j, s) : j != i, C_js not empty, C_js a subset of C_ir }
    a token of region r of panel i reads    all of its own panel, and the picks of R_ir, `TIMES` times

so that a character is read wherever it is, beside another too, and both ways.  What no region holds is
nobody's: it reads its own panel, and no other panel reads it.
"""

import warnings
from contextlib import contextmanager

import torch

from . import cast
from .places import boxes, write_place
from .schedule import grid_of, replaced

#: how many times a token of another panel counts beside one of the panel's own.  A panel of two has all of
#: its own to read, of which half are somebody else's, and few of each character's elsewhere; on validation
#: stories a character was far more often itself with 3 than with 1 (`experiments.regions`)
TIMES = 3


class Regions:
    """Whose tokens are whose in S stories of F panels, and who reads whom.

    Parameters
    ----------
    stories : list of S lists of F Panel
    aspect : float
        Height over width of the pictures.
    rule : callable
        As of `cast.may_read`.
    isolated : bool
        Whether characters of one panel do not read each other either.
    times : int
        How many times a token of another panel counts, see `TIMES`.
    """

    def __init__(self, stories, aspect=1.0, rule=cast.by_character, isolated=False, times=TIMES):
        self.aspect = aspect
        several = [any(len(panel.characters) > 1 for panel in story) for story in stories]
        self.times = [times if some else 1 for some in several]  # a story without them is as it was
        self.boxes = [[_boxes(panel) for panel in story] for story in stories]
        self.placed = [[panel.characters if panel.places else () for panel in story] for story in stories]
        parts = 1 + max(len(found) for story in self.boxes for found in story)  # the last one is nobody's
        self.may_read = torch.stack([_may_read(story, parts, rule) for story in stories])  # [S, F, P, F, P]
        named = torch.arange(parts) < parts - 1
        apart = isolated & named[:, None] & named & ~torch.eye(parts, dtype=torch.bool)
        self.within = (~apart).expand(*self.may_read.shape[:2], parts, parts)  # [S, F, P, P]
        self._of = {}

    def of(self, n):
        """The region of each token of a layer of n, LongTensor [S, F, n]; ValueError where one has none."""
        if n not in self._of:
            rows, columns = grid_of(n, self.aspect)
            y = ((torch.arange(rows) + 0.5) / rows)[:, None]
            x = ((torch.arange(columns) + 0.5) / columns)[None]
            found = torch.full((*self.may_read.shape[:2], rows, columns), self.may_read.shape[-1] - 1)
            for s, story in enumerate(self.boxes):
                for i, panel in enumerate(story):
                    for r, (left, top, right, bottom) in enumerate(panel):
                        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
                        if self.placed[s][i] and not inside.any():
                            raise ValueError(
                                f"Panel {i + 1}: the box of {self.placed[s][i][r]}, "
                                f"{write_place(panel[r])!r}, holds the middle of none of a layer's "
                                f"{rows} x {columns} tokens. Make it at least {-(-100 // columns)} percent "
                                f"wide and {-(-100 // rows)} high."
                            )
                        found[s, i, inside] = r
            self._of[n] = found.flatten(2)
        return self._of[n]

    def between(self, readers, lenders, picks, n):
        """What `attention.region_lists` wants to know: regions of tokens and picks, and who reads whom.

        Parameters
        ----------
        readers, lenders : range
            Panels of each story.
        picks : LongTensor [H S, W, K]
            Tokens of the lenders; H: halves of guidance.
        n : int
            Tokens of a panel.
        """
        r, w = (slice(x.start, x.stop) for x in (readers, lenders))
        halves = len(picks) // len(self.may_read)
        of_lent = self.of(n)[:, w].repeat(halves, 1, 1).gather(2, picks)
        may, within = self.may_read[:, r, :, w], self.within[:, r]
        return (
            self.of(n)[:, r].repeat(halves, 1, 1),
            of_lent,
            may.repeat(halves, 1, 1, 1, 1),
            within.repeat(halves, 1, 1, 1),
            self.times * halves,
        )


def _boxes(panel):
    """The boxes of a panel's regions: of the characters of a panel of several, or the whole panel."""
    several = len(panel.characters) > 1
    return boxes(panel.characters, panel.places) if several else [(0.0, 0.0, 1.0, 1.0)]


def _may_read(story, parts, rule):
    """Region p of panel i may read region q of another panel j: bool [F, P, F, P]."""
    sets = []
    for panel in story:
        several = len(panel.characters) > 1
        shown = [{name} for name in panel.characters] if several else [cast.names(panel)]
        sets += shown + [set()] * (parts - len(shown))
    may = torch.tensor([[rule(a, b) for b in sets] for a in sets]).view(len(story), parts, -1, parts)
    may[range(len(story)), :, range(len(story))] = False  # its own panel is read as `within` says
    return may


def own_words(prompts, panel):
    """What each region of a panel of several reads: its prompt without the words that describe the others.

    The panel's ``described`` says which these are.  For each character the states [L, D] of the words that
    are left, begin, end and padding too, L <= 77.
    """
    with warnings.catch_warnings():  # of words that are lost the panel itself warns
        warnings.simplefilter("ignore")
        ids = prompts.ids(prompts.fit([panel.prompt]))  # [1, 2, 77]
    states, row, found = prompts.encode(ids)[0][0], ids[0, 0].tolist(), []
    phrases = [prompts.tokenizers[0](text, verbose=False).input_ids[1:-1] for text in panel.described]
    for mine in range(len(phrases)):
        keep = torch.ones(len(row), dtype=torch.bool)
        for k in (*(k for k in range(len(phrases)) if k != mine), mine):  # its own last: they may be the same
            size = len(phrases[k])
            for start in (t for t in range(len(row)) if row[t : t + size] == phrases[k]):
                keep[start : start + size] = k == mine
        found.append(states[keep.to(states.device)])
    return found


class RegionTexts:
    """Texts of their own for regions: what their tokens read in cross-attention instead of the panel's.

    Parameters
    ----------
    regions : Regions
    texts : list of (int, int, int, Tensor [L, D])
        Panel (counted over all stories), region, first step (from 0) that reads it, and states of each text.
    """

    def __init__(self, regions, texts):
        self.regions, self.texts = regions, texts

    @classmethod
    def of(cls, regions, stories, images, reader, merge, words=True):
        """Of the panels of several: with pictures as `IdentityReader.read_regions` says, from step ``merge``
        on; else, if ``words``, `own_words`.
        """
        found = []
        for s, (panels, theirs) in enumerate(zip(stories, images, strict=True)):
            first = s * len(panels)
            read = reader.read_regions(panels, theirs)
            found += [(first + j, r, merge, states) for j, r, states in read]
            for j, panel in enumerate(panels):
                if words and panel.described and j not in {panel for panel, *_ in read}:
                    own = own_words(reader.prompts, panel)
                    found += [(first + j, r, 0, states) for r, states in enumerate(own)]
        return cls(regions, found)

    @contextmanager
    def installed(self, unet, plan):
        """Within this block the cross-attention layers of a U-Net read them; afterwards it is as before."""
        crossing = [n for n in unet.attn_processors if n.endswith("attn2.processor")] if self.texts else []
        with replaced(unet, crossing, lambda name, plain: OwnText(self, plan, plain)):
            yield self


class OwnText:
    """A cross-attention layer's own processor; then once more for each region that has a text of its own."""

    def __init__(self, texts, plan, plain):
        self.texts, self.plan, self.plain = texts, plan, plain

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        texts, now = self.texts, self.plan.now
        out = self.plain(attn, hidden_states, encoder_hidden_states, *args, **kwargs)  # [H S F, n, C]
        whose = texts.regions.of(hidden_states.shape[1])  # [S, F, n]
        stories, panels = whose.shape[:2]
        conditional = len(out) - stories * len(now.panels)  # the last half of guidance
        for row, region, first, states in texts.texts:
            story, panel = divmod(row, panels)
            if panel in now.panels and now.step >= first:
                mine = (whose[story, panel] == region).to(out.device)
                row = conditional + story * len(now.panels) + panel - now.panels.start
                out[row, mine] = self.plain(attn, hidden_states[row : row + 1, mine], states[None])[0]
        return out
