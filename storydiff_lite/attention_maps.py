"""Attention maps of a story: who reads whom, kept small while the story is drawn.

    recorder = AttentionRecorder(steps=(0, 12, 24))
    pipe(story, recorder=recorder)
    recorder.map(12, "up_blocks.1.attentions.0")    # [F, G, F, G]: panel and patch that reads, that is read

The recorder builds the rows of chosen steps, layers and heads (`attention_rows`), adds up the passes of a
step, and answers questions about them.  Nothing of the run changes, and a run without a recorder has none of
this in it.
"""

import warnings
from contextlib import contextmanager
from functools import partial

import torch

from .attention_rows import Quantised, patches, pooled_rows, softmax_rows
from .regions import OwnText
from .schedule import replaced, self_attention_layers
from .tokens import TRIGGER_ID, fit_caption, tokens_and_words

# cross-attention is small, and its begin token or padding can take nearly all: a word's share needs two bytes
LEVELS = {"self": 255, "cross": 65535}

__all__ = ["AttentionRecorder", "Quantised", "patches", "pooled_rows", "softmax_rows"]


class AttentionRecorder:
    """Keeps attention maps of one story: chosen steps, layers and heads, pooled to patches.

    A byte is kept per number, two per number of cross-attention; of guidance only the conditional half.  A
    layer that shares keeps what its panels read in every panel; one that does not (rate 0, a step or layer
    that the schedule leaves plain, ``[NC]``) has panels that read themselves.  Where a panel goes through the
    U-Net several times in a step (``window=`` with ``long_story="passes"``), its map is the mean over the
    passes, as its prediction is, and of windows inside a layer (``"attention"``) over these, as the layer's
    output is: sum_t softmax_t V / T = (sum_t softmax_t / T) V.  A ``"bank"``'s tokens count as the panels'
    that wrote them.

    Regions (``apart="regions"``, ``"isolated"``) read lists of their own; a patch on the border of two has
    the mean of its tokens' rows, and what a list holds several times (`regions.TIMES`) counts as often.

    Parameters
    ----------
    steps : int or collection of int
        Denoising steps to keep, 0 is the first.
    layers : str or list of str
        As of the pipeline: ``"up"``, ``"mid"``, ``"down"``, ``"all"``, or beginnings of names.  They need not
        be the layers that share.
    heads : {"each", "mean"} or list of int
        Every head; the mean of the heads' maps alone (a fraction of the memory); or these.
    cross : bool
        Whether to keep, of the same places, what the words of the prompt are read by.
    grid : int or None
        Patches along the shorter side of a picture, the same for all layers, so that they can be compared;
        ``None``: a layer's own tokens.
    limit : int
        Bytes.  A run that would need more, for all that is kept and for the step at hand in float32, is
        refused before its first step.

    Raises
    ------
    ValueError, TypeError
        Steps below 0 or none, a grid below 1, heads of another kind.

    Notes
    -----
    With P patches a picture and F panels, a head of a layer and step takes F P (F P + 4 + 4 F) bytes: 71 KB
    for four panels of 8 x 8 patches.  Building a map holds 2**22 probabilities at most.
    """

    def __init__(self, steps, layers="up", heads="each", cross=True, grid=8, limit=64 * 2**20):
        self.steps = tuple(sorted({steps} if isinstance(steps, int) else set(steps)))
        if not self.steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in self.steps):
            raise ValueError(f"steps must be whole numbers from 0, at least one, not {steps!r}.")
        if grid is not None and (not isinstance(grid, int) or grid < 1):
            raise ValueError(f"grid is {grid!r}; it must be at least 1, or None for a layer's own tokens.")
        if heads not in ("each", "mean") and not (isinstance(heads, (list, tuple)) and len(heads)):
            raise TypeError(f"heads must be 'each', 'mean' or a list of numbers, not {heads!r}.")
        self.chosen, self.heads, self.cross, self.grid, self.limit = layers, heads, cross, grid, limit
        self._forget()

    def _forget(self):
        self.layers, self.panels, self.prompts, self.tokens = [], 0, [], []
        self._kept = {}  # (kind, step, layer) -> Quantised
        self._masses = {}  # (step, layer) -> [F, h, P, F], what goes to each panel, before quantising
        self._marks = {}  # (step, layer) -> bool [F, N], tokens that others may read
        self._open = {}  # (kind, layer) -> sum [F, h, P, X] and passes [F] of the step at hand
        self._grids, self._heads, self._now, self._bank = {}, {}, None, {}

    # ------------------------------------------------------------------------------------------ recording

    @contextmanager
    def watching(self, unet, plan, stories, tokenizer):
        """Within this block the U-Net's attention is recorded; the pipeline enters it, before sharing starts.

        Parameters
        ----------
        unet : UNet2DConditionModel
        plan : schedule.AttentionPlan
            Knows step and panels of each pass; its ``watch`` is used, and restored.
        stories : list of lists of Panel
            One story.
        tokenizer : CLIPTokenizer
            The first of the pipeline's.

        Raises
        ------
        ValueError
            Several stories, a prompt with a trigger word or regions that read texts of their own (unless
            ``cross`` is False), or more bytes than ``limit``.
        """
        if len(stories) != 1:
            raise ValueError(
                f"An AttentionRecorder keeps one story, and {len(stories)} were drawn in one batch: call "
                "pipe(story, recorder=...) for each, with a recorder of its own."
            )
        self._forget()
        names = self_attention_layers(unet, self.chosen)  # all names, "....attn1.processor"
        self.layers = [n.removesuffix(".attn1.processor") for n in names]
        modules = {n: unet.get_submodule(f"{n}.attn1") for n in self.layers}
        self._heads = {n: self._which(n, m.heads) for n, m in modules.items()}
        self.panels, self.prompts = len(stories[0]), [p.full_prompt for p in stories[0]]
        if self.cross:
            self._read_prompts(tokenizer)
            names += [n for n in unet.attn_processors if n.removesuffix(".attn2.processor") in self.layers]
        self._plan, watch = plan, plan.watch
        hook = unet.register_forward_pre_hook(self._make_room, with_kwargs=True)
        try:
            plan.watch = self._watch
            with replaced(unet, names, partial(_Recording, self)):
                yield self
            self._close()
            if missed := [s for s in self.steps if not any(k[1] == s for k in self._kept)]:
                warnings.warn(f"Steps {missed} never came, so that they have no maps.", stacklevel=3)
        finally:
            hook.remove()
            plan.watch = watch
            self._open, self._bank, self._plan = {}, {}, None

    def _which(self, layer, heads):
        """Of which heads a layer's maps are: a list, or "mean"."""
        if self.heads == "mean":
            return "mean"
        chosen = list(range(heads)) if self.heads == "each" else list(self.heads)
        if not all(0 <= h < heads for h in chosen):
            raise ValueError(f"Layer {layer} has heads 0 to {heads - 1}, and {chosen} were asked for.")
        return chosen

    def _read_prompts(self, tokenizer):
        """Tokens of each panel's prompt, and the words they make."""
        self._words = []
        for prompt in self.prompts:
            prompt = fit_caption(tokenizer, prompt)
            if TRIGGER_ID in tokenizer(prompt, verbose=False).input_ids:
                raise ValueError(
                    f"The prompt {prompt!r} holds the trigger word, whose class token is read once per "
                    "picture: its words have no fixed places. Record with cross=False."
                )
            tokens, words = tokens_and_words(tokenizer, prompt)
            self.tokens.append(tokens)
            self._words.append(words)

    def _make_room(self, unet, args, kwargs):
        """Before a pass: the grids of all layers; before the first, whether there is room."""
        if self._grids:
            return
        if self.cross and any(isinstance(p, OwnText) for p in unet.attn_processors.values()):
            raise ValueError(
                "Each region of a panel of several characters reads a text of its own, without the words "
                "about the others, so that a word of the panel's prompt has no one place. Record with "
                "cross=False."
            )
        height, width = (args[0] if args else kwargs["sample"]).shape[-2:]
        levels = len(unet.config.block_out_channels)
        for layer in self.layers:
            kind, _, rest = layer.partition(".")
            level = int(rest.split(".")[0]) if kind != "mid_block" else levels - 1
            level = levels - 1 - level if kind == "up_blocks" else level
            h, w = (-(-side // 2**level) for side in (height, width))
            g = min(h, w) if self.grid is None else self.grid
            rows, columns = (round(g * side / min(height, width)) for side in (height, width))
            if rows > h or columns > w:
                raise ValueError(
                    f"Layer {layer} has {h} x {w} tokens, fewer than the grid's {rows} x {columns} patches: "
                    f"take grid={min(h, w)} or less, or other layers."
                )
            self._grids[layer] = (h, w), (rows, columns)
        step = kept = 0
        for layer, ((h, w), (rows, columns)) in self._grids.items():
            heads = 1 if self._heads[layer] == "mean" else len(self._heads[layer])
            p = rows * columns
            sizes = [self.panels * p] + ([self._columns] if self.cross else [])
            numbers = heads * self.panels * p
            step += sum(numbers * x * 4 for x in sizes)
            kept += sum(numbers * (x * size + 4) for x, size in zip(sizes, (1, 2), strict=False))
            kept += self.panels * (h * w + 4 * numbers)
        self.planned = len(self.steps) * kept + step
        if self.planned > self.limit:
            raise ValueError(
                f"These maps need {self.planned / 2**20:,.1f} MiB, more than the limit of "
                f"{self.limit / 2**20:,.1f} MiB: take fewer steps, layers or panels, heads='mean' or a "
                "coarser grid, or raise limit=."
            )

    @property
    def _columns(self):
        """Columns of a cross-attention map: the tokens of the longest prompt, and all padding in one."""
        return max(map(len, self.tokens)) + 1

    def _watch(self, layer, attn, q, k, lists, panels, readers=None):
        """Called by every layer in which panels read each other: q [H W, N, C] of W ``panels`` of the pass,
        k [T, C], H W lists, or with regions one for each of the ``readers``.
        """
        layer = layer.removesuffix(".attn1.processor")
        now, n, w = self._plan.now, q.shape[1], len(panels)
        f = len(now.panels)
        if layer not in self.layers or (now.step not in self.steps and now.role != "write"):
            return
        # of each token of the pool: its panel, counted through the whole story, and its place there
        own = torch.arange(len(q) // w * f * n, device=q.device)
        owner = now.panels.start + own // n % f
        place = own % n
        if now.role == "write":
            picks = self._plan.picks(layer + ".attn1.processor", n)[0]  # [F, K]
            self._bank[layer] = torch.arange(f).repeat_interleave(picks.shape[1]), picks.flatten()
        elif now.role == "read":  # behind the pass's own tokens: a bank for each half
            halves = len(q) // w
            theirs = [x.to(q.device).repeat(halves) for x in self._bank[layer]]
            owner, place = torch.cat([owner, theirs[0]]), torch.cat([place, theirs[1]])
        if now.step in self.steps:
            first = len(q) - w  # the conditional half is the last one
            if readers is None:
                asks = [(i, slice(None), lists[first + i]) for i in range(w)]
            else:
                asks = [(int(x[0]) // n - first, x % n, y) for x, y in zip(readers, lists, strict=True)]
            asks = [ask for ask in asks if ask[0] >= 0]
            self._self(layer, attn, q[-w:], k, asks, owner, place, panels.start)

    def _self(self, layer, attn, q, k, asks, owner, place, first):
        """Maps of panels: q [W, N, C] from the story's panel ``first`` on, pool k [T, C], whose it is [T] and
        its place there; asks: (row of q, which of its tokens read, which tokens of the pool they read).
        """
        (h, w), (rows, columns) = self._grids[layer]
        if q.shape[1] != h * w:
            raise ValueError(f"Layer {layer} has {q.shape[1]} tokens; {h} x {w} were expected of this U-Net.")
        cell, p = patches(h, w, rows, columns).to(q.device), rows * columns
        column = owner * p + cell[place]  # [T]
        seen = torch.zeros(self.panels, h * w, dtype=torch.bool)
        maps, size = [0] * len(q), cell.bincount(minlength=p)
        for i, mine, index in asks:
            rows = pooled_rows(
                attn, q[i, mine], k[index], cell[mine], column[index], p, self.panels * p, self._heads[layer]
            )
            share = cell[mine].bincount(minlength=p) / size  # of a patch's tokens, those that read this list
            maps[i] = maps[i] + share[:, None] * rows
            theirs = index[owner[index] != first + i]
            seen[owner[theirs].cpu(), place[theirs].cpu()] = True
        self._add("self", layer, torch.stack(maps), first)
        marks = self._marks.setdefault((self._plan.now.step, layer), torch.zeros_like(seen))
        marks |= seen

    def _plain(self, layer, attn, x):
        """A layer in which every panel reads itself: x [H F, N, C]."""
        f, n = len(self._plan.now.panels), x.shape[1]
        x = x[-f:]
        own = torch.arange(f * n, device=x.device)
        asks = [(i, slice(None), own[i * n : (i + 1) * n]) for i in range(f)]
        k, first = attn.to_k(x).flatten(0, 1), self._plan.now.panels.start
        self._self(layer, attn, attn.to_q(x), k, asks, first + own // n, own % n, first)

    def _cross(self, layer, attn, x, states):
        """What the patches read of the prompts: x [H F, N, C], states [H F, 77, D]."""
        states = states[0] if isinstance(states, tuple) else states
        f, first = len(self._plan.now.panels), self._plan.now.panels.start
        states = attn.norm_encoder_hidden_states(states) if attn.norm_cross else states
        q, k = attn.to_q(x[-f:]), attn.to_k(states[-f:])
        (h, w), (rows, columns) = self._grids[layer]
        cell = patches(h, w, rows, columns).to(x.device)
        maps = []
        for i in range(f):
            column = torch.arange(k.shape[1], device=x.device)
            column[len(self.tokens[first + i]) :] = self._columns - 1
            maps.append(
                pooled_rows(attn, q[i], k[i], cell, column, rows * columns, self._columns, self._heads[layer])
            )
        self._add("cross", layer, torch.stack(maps), first)

    def _add(self, kind, layer, maps, first):
        """Maps [f, h, P, X] of panels of the story, from ``first`` on."""
        step, f = self._plan.now.step, len(maps)
        if step != self._now:
            self._close()
            self._now = step
        if (kind, layer) not in self._open:
            shape = self.panels, *maps.shape[1:]
            self._open[kind, layer] = torch.zeros(shape, device=maps.device), torch.zeros(self.panels)
        total, count = self._open[kind, layer]
        total[first : first + f] += maps
        count[first : first + f] += 1

    def _close(self):
        """Quantise the maps of the step that is over."""
        for (kind, layer), (total, count) in self._open.items():
            mean = total / count.to(total.device)[:, None, None, None]
            self._kept[kind, self._now, layer] = Quantised.of(mean, LEVELS[kind])
            if kind == "self":
                self._masses[self._now, layer] = mean.unflatten(-1, (self.panels, -1)).sum(-1).cpu()
        self._open = {}

    # ------------------------------------------------------------------------------------------ reading

    @property
    def nbytes(self):
        """Bytes of all that is kept."""
        kept = (*self._kept.values(), *self._masses.values(), *self._marks.values())
        return sum(x.nbytes for x in kept)

    def _find(self, kind, step, layer):
        layer = self.layer(layer)
        if (kind, step, layer) not in self._kept:
            steps = sorted({s for k, s, _ in self._kept if k == kind})
            raise KeyError(f"No {kind}-attention of step {step} was recorded; there are steps {steps}.")
        return layer, self._kept[kind, step, layer]

    def layer(self, name):
        """A recorded layer's full name, of its beginning; KeyError where there is none or several."""
        found = [n for n in self.layers if n == name or n.startswith(name.rstrip(".") + ".")]
        if len(found) != 1:
            raise KeyError(
                f"{name!r} names {len(found)} recorded layers; there are {', '.join(self.layers)}."
            )
        return found[0]

    def heads_of(self, layer):
        """The heads of a layer that were recorded, list of int; empty where only their mean was."""
        which = self._heads[self.layer(layer)]
        return [] if which == "mean" else list(which)

    def grid_of(self, layer):
        """Rows and columns of a layer's patches."""
        return self._grids[self.layer(layer)][1]

    def tokens_of(self, layer):
        """Rows and columns of a layer's tokens."""
        return self._grids[self.layer(layer)][0]

    def _values(self, layer, kept, head, values):
        if head == "mean":
            return values(kept).mean(1)
        which = self._heads[layer]
        if which == "mean" or head not in which:
            raise KeyError(f"Head {head!r} was not recorded; there are 'mean' and {self.heads_of(layer)}.")
        return values(kept)[:, which.index(head)]

    def map(self, step, layer, head="mean"):
        """What every patch reads of every patch.

        Parameters
        ----------
        step : int
        layer : str
            Its name or the beginning of it.
        head : int or "mean"

        Returns
        -------
        Tensor [F, P, F, P]
            Panel and patch that read, panel and patch that are read; the share, 0 to 1, of the attention.
            Over the last two axes it sums to 1, but for `error`.

        Raises
        ------
        KeyError
            Not recorded; the message says what was.
        """
        layer, kept = self._find("self", step, layer)
        return self._values(layer, kept, head, Quantised.values).unflatten(-1, (self.panels, -1))

    def error(self, step, layer, head="mean", kind="self"):
        """The most by which a number of `map` (or, with ``kind="cross"``, `word_map`'s tokens) can be off,
        [F, P]: half a code, see `Quantised`.
        """
        layer, kept = self._find(kind, step, layer)
        return self._values(layer, kept, head, Quantised.error)

    def mass(self, step, layer, head="mean"):
        """How much of each patch's attention goes to each panel, [F, P, F].

        Sums of `map` over the patches that are read, before quantising: over the last axis they sum to 1.
        """
        layer, _ = self._find("self", step, layer)
        return self._values(layer, self._masses[step, layer], head, torch.Tensor.clone)

    def sampled(self, step, layer):
        """Which tokens of each panel the others could read, bool [F, N]; in any pass of the step."""
        layer, _ = self._find("self", step, layer)
        return self._marks[step, layer].clone()

    def words(self, panel):
        """Words of a panel's prompt and where their tokens are: list of (str, list of int)."""
        if not self.cross:
            raise KeyError("No cross-attention was recorded: record with cross=True.")
        return list(self._words[panel])

    def cross_map(self, step, layer, head="mean"):
        """What every patch reads of its prompt.

        Returns
        -------
        Tensor [F, P, X]
            Over tokens 0 (begin) to the end token of the panel's prompt, as in ``tokens``; the last column
            is all padding.  Rows sum to 1, but for `error`.
        """
        layer, kept = self._find("cross", step, layer)
        return self._values(layer, kept, head, Quantised.values)

    def word_map(self, panel, word, step, layer, head="mean"):
        """Where a word lands: the share of its attention that each patch gives the word, [rows, columns].

        Every place of the word in the prompt counts.  KeyError where the prompt lacks it.
        """
        places = [p for text, found in self.words(panel) for p in found if text.lower() == word.lower()]
        if not places:
            raise KeyError(f"The prompt {self.prompts[panel]!r} has no word {word!r}.")
        return self.cross_map(step, layer, head)[panel, :, places].sum(-1).view(self.grid_of(layer))


class _Recording:
    """A layer's own processor, and a look at what it reads in the recorded steps."""

    def __init__(self, recorder, name, plain):
        self.recorder, self.plain = recorder, plain
        self.layer, self.kind = name.removesuffix(".processor").rsplit(".", 1)

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs
    ):
        recorder = self.recorder
        if recorder._plan.now.step in recorder.steps:
            if self.kind == "attn2":
                recorder._cross(self.layer, attn, hidden_states, encoder_hidden_states)
            else:
                recorder._plain(self.layer, attn, hidden_states)
        return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
