"""The models of a story as modules that ONNX can say: text encoders, U-Net, decoder.

What the page decides while it draws are inputs here: for each self-attention layer a list of the tokens that
each panel reads (`attention.reading_lists`), so that the rate, the picks, the window and who reads whom are
free; the regions of a panel, what each may read of that list, and which words (`regions`); and whether q k^T
is divided by sqrt(d) in those layers, so that a reader can see what happens if not.
"""

import torch
from torch import nn

from .. import world
from ..neighbours import watched_layers
from ..schedule import self_attention_layers

#: what a caption may hold beside the world's own words
SENTENCE = (
    "a an two and with in wearing fur hair skin clothes outfit outfits nobody empty scene comic of then the "
    "on hats scarves bows , ."
).split()


def words():
    """Every word that a caption of StoryWorld can hold, sorted."""
    found = {*SENTENCE, *(s + "s" for s in world.SPECIES)}
    for names in (world.FUR, world.SKIN, world.OUTFIT, world.ACCESSORY, world.SPECIES):
        found |= set(names)
    for text in (*world.ACTIONS.values(), *world.SCENES.values(), *world.ACTIONS, *world.SCENES):
        found |= set(text.split())
    return sorted(found)


def vocabulary(tokenizer):
    """The part of a tokenizer's vocabulary that those words use.

    Returns
    -------
    words : dict
        Word -> its ids in the small vocabulary.
    kept : list of int
        The tokenizer's id of each id of the small vocabulary, rising.
    """
    ids = {word: tokenizer(word, verbose=False).input_ids[1:-1] for word in words()}
    kept = sorted({i for v in ids.values() for i in v} | {0, tokenizer.bos_token_id, tokenizer.eos_token_id})
    new = {old: i for i, old in enumerate(kept)}
    return {word: [new[i] for i in v] for word, v in ids.items()}, kept


def attend(q, k, v):
    """softmax(q k^T) v, q scaled already; in plain operations, which every runtime has."""
    return (q @ k.transpose(2, 3)).softmax(-1) @ v


def _heads(x, heads):
    """[B, N, C] -> [B, heads, N, C / heads]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class Text(nn.Module):
    """Ids of both tokenizers, int32 [B, 77] each -> states [B, 77, D] and pooled text [B, P].

    Parameters
    ----------
    pipe : StoryPipeline
    kept : list of int
        The rows of the token embeddings that remain (`vocabulary`).
    """

    def __init__(self, pipe, kept):
        super().__init__()
        self.encoders = nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2])
        rows = torch.tensor(kept)
        self.embeddings = nn.ParameterList(
            nn.Parameter(self.inner(e).embeddings.token_embedding.weight[rows].detach().clone())
            for e in self.encoders
        )
        self.eos = kept.index(pipe.tokenizer.eos_token_id)

    @staticmethod
    def inner(encoder):
        return getattr(encoder, "text_model", encoder)

    @staticmethod
    def layer(block, x, mask):
        """A layer of CLIP's transformer."""
        attn, h = block.self_attn, block.layer_norm1(x)
        q, k, v = (_heads(p(h), attn.num_heads) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + mask).softmax(-1)
        x = x + attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return x + block.mlp(block.layer_norm2(x))

    def forward(self, ids, ids_2):
        n = ids.shape[1]
        mask = torch.full((n, n), -1e4).triu(1)  # -1e9 would not fit float16
        states = []
        for encoder, embedding, tokens in zip(self.encoders, self.embeddings, (ids, ids_2), strict=True):
            inner = self.inner(encoder)
            x = nn.functional.embedding(tokens, embedding) + inner.embeddings.position_embedding.weight
            *blocks, last = inner.encoder.layers
            for block in blocks:
                x = self.layer(block, x, mask)
            states.append(x)  # the last layer but one, as SDXL reads it
        x = inner.final_layer_norm(self.layer(last, x, mask))
        ends = (ids_2 == self.eos).to(torch.float32)
        first = (ends.cumsum(1) == 1).to(torch.float32) * ends  # 1 at the first end of text, else 0
        return torch.cat(states, -1), encoder.text_projection((x * first[:, :, None]).sum(1))


class _Call:
    """What one run of `UNet` hands to its attention layers and gets from them."""

    lists, answers, regions, seen, scale, words, said, shares = {}, {}, {}, {}, None, None, None, {}


def _with(x, more):
    """Heads x [B, N, heads, d] with numbers more [B, N, P] behind them: [B, heads, N, d + P]."""
    more = more[:, :, None].expand(-1, -1, x.shape[2], -1)
    return torch.cat([x, more], 3).transpose(1, 2)


class _Reads:
    """Self-attention: each row reads the tokens that an input lists, as its regions may.

    A query ends in 1 for its own region and 0 for all others, and a key in what it answers to each region: 0,
    or log 3 to count three times, or -10000 not to be read.  So the product of both has the answer added to
    it, and a mask costs no more than P channels; none at all where there are no regions, P = 0.
    """

    def __init__(self, call, layer):
        self.call, self.layer = call, layer

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
        call, (b, n, c), heads = self.call, x.shape, attn.heads
        q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)  # [B, N, C]
        call.seen[self.layer] = q, k
        index = call.lists[self.layer].flatten()  # index_select becomes Gather, y[index] the slow GatherND
        k, v = (y.reshape(-1, c).index_select(0, index).view(b, -1, heads, c // heads) for y in (k, v))
        scale = call.scale * (c // heads) ** -0.5 + (1 - call.scale)  # 1: as it should be, 0: forgotten
        q = _with(q.unflatten(2, (heads, -1)) * scale, call.regions[n])
        k = _with(k, call.answers[self.layer])
        return attn.to_out[0](attend(q, k, v.transpose(1, 2)).transpose(1, 2).flatten(2))


class _Crosses:
    """Cross-attention: each region reads those words of its row's text that it may.

    ``watched``: the layer's name, if the share of the words that are ``said`` is kept (`neighbours.subject`).
    """

    def __init__(self, call, watched=None):
        self.call, self.watched = call, watched

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
        text, heads = encoder_hidden_states, attn.heads
        q, k, v = (y.unflatten(2, (heads, -1)) for y in (attn.to_q(x), attn.to_k(text), attn.to_v(text)))
        q = q * q.shape[-1] ** -0.5
        if self.watched:  # of the whole text, whatever a region reads of it
            weights = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(-1)  # [B, heads, N, 77]
            share = (weights * self.call.said[:, None, None]).sum(-1).mean(1)  # [B, N]
            self.call.shares[self.watched] = share
        q, k = _with(q, self.call.regions[x.shape[1]]), _with(k, self.call.words)
        return attn.to_out[0](attend(q, k, v.transpose(1, 2)).transpose(1, 2).flatten(2))


class UNet(nn.Module):
    """The U-Net of a pipeline, its attention as its inputs say.

    Inputs: latents x [B, 4, h, w], time [1], states [B, 77, D], pooled [B, P'], scale [1] (1: q k^T /
    sqrt(d), 0: q k^T); said [B, 77], 1 for the words of a text and 0 for begin, end and padding; words
    [B, 77, P], what each word answers to each of P regions (`_Reads`); for each number of tokens N that there
    is, rising, regions [B, N, P], 1 where a token is in a region and else 0; and for each self-attention
    layer int32 lists [B, L], which of all B * N tokens a row reads, and answers [B, L, P] of these.  Without
    regions P is 0.

    Outputs: the prediction [B, 4, h, w], then q and k [B, N, C] of each self-attention layer, k before tokens
    are gathered; and of each layer in which a subject is looked for (`neighbours.watched_layers`), how much
    of a token's cross-attention falls on the words that are said, [B, N].

    Parameters
    ----------
    pipe : StoryPipeline
        Its U-Net gets other processors: give a pipeline of its own.
    sizes : list of int
        Numbers of tokens that its layers have, rising.
    """

    def __init__(self, pipe, sizes):
        super().__init__()
        self.unet, self.tokens = pipe.unet, sizes
        self.layers = self_attention_layers(pipe.unet, "all")
        # torch.export copies the dicts and lists that are attributes of a module, but not those of a class
        own = {name: {} for name in ("lists", "answers", "regions", "seen", "shares")}
        call, self.watched = type("Call", (_Call,), own), watched_layers(pipe.unet)
        names = {name: name if name in self.watched else None for name in self.unet.attn_processors}
        processors = {name: _Crosses(call, watched) for name, watched in names.items()}
        self.unet.set_attn_processor(processors | {name: _Reads(call, name) for name in self.layers})
        self._call = call
        height, width = picture_size(pipe)
        picture = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        self.register_buffer("picture", picture, persistent=False)

    def forward(self, x, t, states, pooled, scale, said, words, regions, lists, answers):
        b, call = x.shape[0], self._call
        call.lists.update(zip(self.layers, lists, strict=True))
        call.answers.update(zip(self.layers, answers, strict=True))
        call.regions.update(zip(self.tokens, regions, strict=True))
        call.scale, call.said, call.words = scale, said, words
        v = self.unet(
            x,
            t.expand(b),
            states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self.picture.expand(b, 6)},
            return_dict=False,
        )[0]
        seen = [call.seen[name] for name in self.layers]
        shares = (call.shares[name] for name in self.watched)
        return v, *(q for q, _ in seen), *(k for _, k in seen), *shares


class Decoder(nn.Module):
    """Latents [B, 4, h, w] -> pixels [B, 3, H, W], 0 to 255."""

    def __init__(self, pipe):
        super().__init__()
        self.vae, self.scaling = pipe.vae, pipe.vae.config.scaling_factor

    def forward(self, latents):
        y = self.vae.decode(latents / self.scaling, return_dict=False)[0]
        return (y / 2 + 0.5).clamp(0, 1) * 255


def picture_size(pipe):
    """(height, width) of a picture in pixels, as the model was made for."""
    size = pipe.unet.config.sample_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    return tuple(n * pipe.vae_scale_factor for n in size)
