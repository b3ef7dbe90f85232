"""Where the subject is, found while a story is drawn, in the cross-attention of its earlier steps.

    share of token t = sum over the words w of softmax(q_t k^T / sqrt(d))_w     mean over the heads, [N]
    map of step s    = sum of the shares of the steps before s                  no look-ahead, no second run
    subject          = map > Otsu's threshold                                   bool, a panel at a time

ConsiStory (Tewel et al. 2402.03286) takes the word of the subject alone; `WORDS` takes all words of the
prompt.  What is not a word is the begin token, the end token and the padding.
"""

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..attention_maps import softmax_rows
from ..schedule import AttentionPlan, grid_of, replaced

GRID = 16  # rows and columns of a map


class Where(NamedTuple):
    """In which layers a subject is looked for (the beginning of their names), in the logarithm or not."""

    layers: str
    log: bool = False


#: the subject's own word; its share is small, and its logarithm better spread
NOUN = Where("up_blocks.1.attentions.0", log=True)
#: all words of the prompt
WORDS = Where("up_blocks.0.attentions.1")


def word_places(tokenizer, prompts, word=None):
    """Which tokens of each of F prompts are words, or this word alone: bool [F, 77]; ValueError where a
    prompt does not hold it.
    """
    places = torch.zeros(len(prompts), tokenizer.model_max_length, dtype=torch.bool)
    wanted = tokenizer(word, verbose=False).input_ids[1:-1] if word else []
    for row, prompt in zip(places, prompts, strict=True):
        ids = tokenizer(prompt, truncation=True, verbose=False).input_ids[1:-1]
        if not word:
            row[1 : 1 + len(ids)] = True
            continue
        starts = [i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted]
        if not starts:
            raise ValueError(
                f"The prompt {prompt!r} does not hold the word {word!r}: name one that it holds."
            )
        row[1 + starts[0] : 1 + starts[0] + len(wanted)] = True
    return places


def between_ends(ids, end):
    """Which tokens, int [F, 77], are words, bool [F, 77]: those between the begin token and the first end
    token, whose id is ``end``.
    """
    words = (ids == end).cumsum(1) == 0
    words[:, 0] = False
    return words


def otsu(x):
    """Otsu's threshold [R, 1] of each row of x [R, N].

    Between the two sides of it, the variance of their means is largest.
    """
    x, n = x.sort(1).values, x.shape[1]
    below = torch.arange(1, n, device=x.device)  # how many are on the lower side
    total = x.cumsum(1)
    low, high = total[:, :-1] / below, (total[:, -1:] - total[:, :-1]) / (n - below)
    best = (below * (n - below) * (high - low) ** 2).argmax(1, keepdim=True)
    return (x.gather(1, best) + x.gather(1, best + 1)) / 2


def subject_masks(maps, log=False):
    """Maps [..., N] -> bool [..., N]: what lies above Otsu's threshold, each map for itself."""
    rows = maps.flatten(0, -2)
    rows = rows.clamp(min=1e-12).log() if log else rows
    return (rows > otsu(rows)).view(maps.shape)


def word_share(attn, x, states, words, aspect=1.0):
    """How much of each token's cross-attention falls on the words of its prompt, mean over the heads.

    Parameters
    ----------
    attn : diffusers Attention
        A cross-attention layer.
    x : Tensor [R, N, C]
        Hidden states of R panels.
    states : Tensor [R, 77, D]
        Of their prompts.
    words : bool Tensor [R, 77]
    aspect : float
        Height over width of the picture.

    Returns
    -------
    Tensor [R, GRID * GRID]
        0 to 1, on the grid of all maps.
    """
    rows = zip(attn.to_q(x), attn.to_k(states), words.to(x.device), strict=True)
    share = torch.stack([softmax_rows(attn, q, k).mean(0)[:, w].sum(1) for q, k, w in rows])  # [R, N]
    sides = grid_of(share.shape[1], aspect)
    return F.interpolate(share.view(-1, 1, *sides), (GRID, GRID), mode="bilinear").flatten(1)


class SubjectPlan(AttentionPlan):
    """A plan that knows, from the second step on, where the subject is.

    Parameters
    ----------
    may_read, sampling_rate, ...
        As of `AttentionPlan`.
    words : bool Tensor [F, 77] or [S, F, 77]
        The tokens to look for, see `word_places`.
    where : Where
    later : (int, bool Tensor), optional
        From this step on (0 is the first) other tokens, such as ``words``: once an identity is read, the
        class token is there several times.
    aspect : float
        Height over width of the pictures.
    """

    def __init__(self, *args, words, where=WORDS, later=None, aspect=1.0, **settings):
        super().__init__(*args, **settings)
        self.words, self.where, self.aspect = words.expand(*self.may_read.shape[:2], -1), where, aspect
        self.later, words = later or (math.inf, words)
        self.words_later = words.expand_as(self.words)
        self.total = torch.zeros(*self.words.shape[:2], GRID * GRID)  # of the steps that are over
        self.new, self._step, self._masks = torch.zeros_like(self.total), 0, None

    def subject(self, n):
        """Which of n tokens of each panel show the subject, bool [S, F, n]; None in the first step."""
        self._next_step()
        if not self.total.any():
            return None
        if self._masks is None:
            self._masks = subject_masks(self.total, self.where.log)
        held, sides = slice(self.now.panels.start, self.now.panels.stop), grid_of(n, self.aspect)
        masks = self._masks[:, held].float().view(-1, 1, GRID, GRID)
        return (F.adaptive_avg_pool2d(masks, sides) >= 0.5).view(len(self.seeds), -1, n)

    def look(self, attn, x, states):
        """Called by the watched layers: x [H S F, N, C], states [H S F, 77, D]; of these the last half."""
        self._next_step()
        held = slice(self.now.panels.start, self.now.panels.stop)
        words = self.words if self.now.step < self.later else self.words_later
        words = words[:, held].flatten(0, 1)  # [S F, 77]
        share = word_share(attn, x[-len(words) :], states[-len(words) :], words, self.aspect)
        self.new[:, held] += share.view(len(self.seeds), -1, GRID * GRID).cpu()

    def _next_step(self):
        if self.now.step != self._step:
            self.total += self.new
            self.new, self._step, self._masks = torch.zeros_like(self.total), self.now.step, None

    @contextmanager
    def installed(self, unet, layers="up"):
        """As of `AttentionPlan`; the watched cross-attention layers look, too."""
        looking = replaced(unet, watched_layers(unet, self.where), lambda name, plain: _Looking(self, plain))
        with looking, super().installed(unet, layers):
            yield self


class _Looking:
    """A cross-attention layer's own processor, and a look at where its words land."""

    def __init__(self, plan, plain):
        self.plan, self.plain = plan, plain

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        self.plan.look(attn, hidden_states, encoder_hidden_states)
        return self.plain(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def watched_layers(unet, where=WORDS):
    """Names of the cross-attention processors in which a subject is looked for; ValueError if none."""
    first = where.layers.rstrip(".") + "."
    watched = [n for n in unet.attn_processors if n.startswith(first) and n.endswith("attn2.processor")]
    if not watched:
        raise ValueError(
            f"No cross-attention layer of this U-Net is called {where.layers!r}, where a subject is looked "
            "for: it is no U-Net of SDXL's kind. Draw with picks='random'."
        )
    return watched
