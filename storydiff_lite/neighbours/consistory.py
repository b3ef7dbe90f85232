"""ConsiStory (Tewel et al. 2402.03286): panels read each other's subject.

1. *Subject-driven self-attention*: panel i reads its own tokens and, of every other panel, those inside the
   subject's mask, each dropped with a probability.
2. *Vanilla queries*: in the first steps the queries are mixed with those of a pass without sharing, so that
   poses stay different.
3. *Injection*: in some steps a subject token's output is moved towards that of the token that matches it
   best in the other panels, by the features of the U-Net's decoder (DIFT, 2306.03881).
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from ..attention import ConsistentSelfAttention
from .subject import NOUN, SubjectPlan, otsu

ALPHA = 0.8  # how far an output is moved towards its match
BEGIN, END = 0.9, 0.8  # share of the vanilla queries in the first and in the last step that mixes them in
TIME = 261  # of the DIFT features, 0 to 999


class ConsiStoryAttention(ConsistentSelfAttention):
    """The processor: keeps vanilla queries and mixes them in, and injects outputs."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        plan = self.plan
        if plan.vanilla_pass and encoder_hidden_states is None:
            plan.queries[self.layer] = attn.to_q(hidden_states)
            return self.plain(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        output = super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return plan.injected(output) if encoder_hidden_states is None else output

    def project(self, attn, hidden_states):
        q, k, v = super().project(attn, hidden_states)
        if self.layer in self.plan.queries:
            share = BEGIN + (END - BEGIN) * self.plan.now.step / max(1, self.plan.vanilla - 1)
            q = share * self.plan.queries[self.layer] + (1 - share) * q
        return q, k, v


class ConsiStory(SubjectPlan):
    """The plan of ConsiStory; any ``consistency`` above 0 switches it on.

    Parameters
    ----------
    may_read, sampling_rate, ..., words, where
        As of `SubjectPlan`; the subject's noun by default.
    dropout : float
        0 to 1: how many of the subject's tokens are not read, drawn anew in every layer and step.
    vanilla : int
        So many first steps mix in vanilla queries; each costs a second pass.
    match : dict, optional
        As of `matches`: what is injected.
    inject : (int, int)
        First step that injects, and the first that no longer does.
    """

    processor = ConsiStoryAttention

    def __init__(self, *args, where=NOUN, dropout=0.5, vanilla=0, match=None, inject=(2, 6), **settings):
        super().__init__(*args, where=where, **settings)
        self.dropout, self.vanilla, self.match, self.inject = dropout, vanilla, match or {}, inject
        self.vanilla_pass, self.queries = False, {}

    def lists(self, layer, n, halves):
        """Its own tokens, and of the other panels those of the subject: a list of H S F LongTensors."""
        f, subject = len(self.now.panels), self.subject(n)
        if subject is None:
            subject = torch.zeros(len(self.seeds), f, n, dtype=torch.bool)
        kept = subject & (self.order(layer, n) >= self.dropout)  # [S, F, n]
        held = slice(self.now.panels.start, self.now.panels.stop)
        theirs = kept[:, None] & self.may_read[:, held, held, None]  # [S, F readers, F, n]
        own = torch.arange(halves * len(self.seeds) * f * n).view(-1, f, n)  # [H S, F, n]
        lists = []
        for story, tokens in enumerate(own):
            read = theirs[story % len(self.seeds)]
            lists += [torch.cat([tokens[i], tokens[read[i]]]) for i in range(f)]
        return lists

    def injected(self, output):
        """Outputs [H S F, N, C] of a layer, subject tokens moved towards their match."""
        n, subject = output.shape[1], None
        if n in self.match and self.inject[0] <= self.now.step < self.inject[1]:
            subject = self.subject(n)
        if subject is None:
            return output
        where, good = self.match[n]  # [S, F, n] each
        halves = len(output) // subject[..., 0].numel()
        where = where.flatten(1).repeat(halves, 1).to(output.device)  # [H S, F n]
        good = (good & subject).flatten(1).repeat(halves, 1).to(output.device)
        tokens = output.reshape(len(where), -1, output.shape[-1])  # [H S, F n, C]
        source = tokens.gather(1, where[..., None].expand_as(tokens))
        mixed = torch.where(good[..., None], (1 - ALPHA) * tokens + ALPHA * source, tokens)
        return mixed.view_as(output)

    @contextmanager
    def installed(self, unet, layers="up"):
        """As of `SubjectPlan`; in the first ``vanilla`` steps each pass comes after one without sharing."""
        hook = unet.register_forward_pre_hook(self._keep_queries, with_kwargs=True)
        try:
            with super().installed(unet, layers):
                yield self
        finally:
            hook.remove()
            self.queries.clear()

    def look(self, attn, x, states):
        if not self.vanilla_pass:
            super().look(attn, x, states)

    def _keep_queries(self, unet, args, kwargs):
        self.queries.clear()
        if self.now.step >= self.vanilla:
            return
        self.vanilla_pass = True
        try:
            unet.forward(*args, **kwargs)
        finally:
            self.vanilla_pass = False


@torch.no_grad()
def dift(pipe, latents, prompts, time=TIME):
    """Features of pictures, by which tokens are matched: what the decoder makes of them, noised a little.

    Parameters
    ----------
    pipe : StoryPipeline
    latents : Tensor [B, 4, h, w]
        Clean, as the pipeline gives them.
    prompts : list of B str
    time : int
        Noise level, 0 to 999.

    Returns
    -------
    Tensor [B, C, h', w']
        After the first up-block (Tang et al. 2306.03881).
    """
    found = []
    hook = pipe.unet.up_blocks[0].register_forward_hook(lambda module, given, output: found.append(output))
    try:
        noised_pass(pipe, latents, prompts, time)
    finally:
        hook.remove()
    return found[0]


def noised_pass(pipe, latents, prompts, time):
    """A pass of the U-Net over clean latents [B, 4, h, w], noised to a level of 0 to 999, under B prompts."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    kept = pipe.scheduler.alphas_cumprod[time].to(latents)
    noised = kept**0.5 * latents + (1 - kept) ** 0.5 * noise
    states, pooled = pipe.prompts(prompts)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    sizes = torch.tensor([size, size, 0, 0, size, size]).to(latents).expand(len(latents), -1)
    return pipe.unet(noised, time, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})


def matches(features, panels, sizes=(64, 256)):
    """For each token the one of the story's other panels that is most like it.

    Parameters
    ----------
    features : Tensor [S panels, C, h, w]
        Such as of `dift`.
    panels : int
    sizes : tuple of int
        Tokens of the layers, square.

    Returns
    -------
    dict
        n -> (LongTensor [S, F, n], indices into the F n tokens of the story; bool [S, F, n], whether it is
        like it enough: above Otsu's threshold of its panel).
    """
    found = {}
    for n in sizes:
        x = F.adaptive_avg_pool2d(features.float(), round(n**0.5)).flatten(2).mT  # [S F, n, C]
        x = F.normalize(x, dim=2).unflatten(0, (-1, panels)).flatten(1, 2)  # [S, F n, C]
        own = torch.block_diag(*[torch.ones(n, n)] * panels).bool().to(x.device)
        best, where = (x @ x.mT).masked_fill(own, -1).max(2)  # [S, F n]
        rows = best.view(-1, n)
        shape = len(best), panels, n
        found[n] = where.view(shape).cpu(), (rows > otsu(rows)).view(shape).cpu()
    return found
