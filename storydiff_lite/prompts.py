"""Prompts: text in, embeddings of SDXL's two text encoders out.

    tokens = tokenizer(text), tokenizer_2(text)                     [B, 77] each
    states = the last layer but one of both encoders, side by side  [B, 77, D]; D = 2048, here 96
    pooled = the projected end token of the second                  [B, P];     P = 1280, here 64

The U-Net's cross-attention reads the states, its time embedding the pooled text.
"""

from functools import lru_cache, partial

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from . import weights
from .known_rows import expanded
from .tokens import (
    MAX_LENGTH,
    TRIGGER_ID,
    TriggerWordError,
    drop_trigger,
    expand_class_token,
    fit_caption,
    load_tokenizer,
)

#: a tokenizer with a trigger word is made once for each word
trigger_tokenizer = lru_cache(maxsize=4)(load_tokenizer)
#: file of a shipped text encoder, see `known_rows`
KNOWN_ROWS = "known_rows.safetensors"
#: stands for padding until it is known whose: each tokenizer has one of its own
HOLE = -1


def micro_parts(dtype=torch.float32, given=()):
    """The shipped model's text encoders and tokenizers, name -> part, as `PromptEncoder` and diffusers'
    pipelines take them; those that are ``given`` are not made.

    Raises
    ------
    WeightsError
        A file is missing or not the one that was trained.
    """

    def encoder(kind, name):
        folder = weights.path("micro") / name
        model = kind(kind.config_class.from_pretrained(folder)).eval()
        model.load_state_dict(expanded(load_file(folder / KNOWN_ROWS)))
        return model.to(dtype)

    makers = {
        "tokenizer": load_tokenizer,
        "tokenizer_2": partial(load_tokenizer, pad_token="!"),
        "text_encoder": partial(encoder, CLIPTextModel, "text_encoder"),
        "text_encoder_2": partial(encoder, CLIPTextModelWithProjection, "text_encoder_2"),
    }
    return {name: make() for name, make in makers.items() if name not in given}


class PromptEncoder:
    """Text -> what the U-Net reads: ``encoder(texts)`` gives states [B, 77, D] and pooled text [B, P].

    Parameters
    ----------
    text_encoder, text_encoder_2 : CLIPTextModel, CLIPTextModelWithProjection
        The second may be None (Stable Diffusion 1.5): the states are the last layer's then, pooled is None.
    tokenizer, tokenizer_2 : CLIPTokenizer
    zero_none : bool
        Whether no text (None) is zeros, as in SDXL base, and not the empty text.
    device : torch.device, optional
        Where the embeddings go; they stay where the encoders are by default.
    convert : callable, optional
        ``convert(texts, tokenizer) -> texts`` before tokenizing: diffusers' textual inversion.
    """

    def __init__(
        self, text_encoder, text_encoder_2, tokenizer, tokenizer_2, zero_none=False, device=None, convert=None
    ):
        self.encoders = [e for e in (text_encoder, text_encoder_2) if e is not None]
        self.tokenizers = [t for t in (tokenizer, tokenizer_2) if t is not None]
        self.zero_none, self.device = zero_none, device
        self.convert = convert or (lambda texts, tokenizer: texts)

    def __call__(self, texts):
        """A list of B texts -> (states [B, 77, D], pooled [B, P])."""
        return self.encode(self.ids(texts))

    def ids(self, texts):
        """Token ids of the tokenizers, padded and cut: int64 [B, 2, 77], on the CPU."""
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = [
            t(self.convert(texts, t), max_length=t.model_max_length, **how).input_ids for t in self.tokenizers
        ]
        return torch.stack(ids, 1)

    @torch.no_grad()
    def encode(self, ids):
        """Token ids [B, 2, 77] -> (states [B, 77, D], pooled [B, P] or None)."""
        states, two = [], len(self.encoders) == 2
        for k, encoder in enumerate(self.encoders):
            out = encoder(
                ids[:, k].long().to(get_module_execution_device(encoder)), output_hidden_states=True
            )
            states.append(out.hidden_states[-2] if two else out.last_hidden_state)
        pooled = out.text_embeds.to(device=self.device) if two else None
        return torch.cat(states, -1).to(device=self.device, dtype=encoder.dtype), pooled

    def distinct(self, texts):
        """As a call, each different text encoded once, eight at a time; None is no text.

        A long story's prompts so need no more memory than a short one's.
        """
        keys = list(dict.fromkeys(texts))
        parts = [self([key or "" for key in keys[i : i + 8]]) for i in range(0, len(keys), 8)]
        embeds = [torch.cat(x) for x in zip(*parts, strict=True)]
        if self.zero_none and None in keys:
            for x in embeds:
                x[keys.index(None)] = 0
        if len(keys) == 1:  # such as no prompt at all: kept once
            return [x.expand(len(texts), *x.shape[1:]) for x in embeds]
        return [x[[keys.index(text) for text in texts]] for x in embeds]

    def fit(self, texts):
        """Texts as long as both encoders can read, None left as it is; warns of words that are lost, and
        raises TriggerWordError where a text holds the trigger word, for which there are no pictures here.
        """
        fitting = {None: None}
        for text in dict.fromkeys(texts):
            if text is None:
                continue
            if TRIGGER_ID in self.tokenizers[0](text, verbose=False).input_ids:
                raise TriggerWordError(
                    f"The prompt {text!r} holds the trigger word, which stands for pictures of a person, and "
                    "there are no id_images. Give them, or leave the word out."
                )
            fitting[text] = text
            for tokenizer in self.tokenizers:
                fitting[text] = fit_caption(tokenizer, fitting[text])
        return [fitting[text] for text in texts]

    # ------------------------------------------------------------------------------ with a trigger word

    def class_token_ids(self, captions, num_id_images, trigger_word="img"):
        """Captions with a trigger word -> ids [B, 2, 77], the class token once per reference picture, and
        where it stands, bool [B, 77]; errors as of `tokens.expand_class_token`.
        """
        rows = trigger_tokenizer(trigger_word)(captions, verbose=False).input_ids
        rows = [expand_class_token(row, TRIGGER_ID, num_id_images, MAX_LENGTH, HOLE) for row in rows]
        ids, mask = zip(*rows, strict=True)
        return self._padded(ids), torch.tensor(mask)

    def text_only_ids(self, captions, trigger_word="img"):
        """Ids [B, 2, 77] of the same captions without their trigger word."""
        rows = trigger_tokenizer(trigger_word)(captions, verbose=False).input_ids
        return self._padded([drop_trigger(row, TRIGGER_ID, MAX_LENGTH, HOLE) for row in rows])

    def _padded(self, ids):
        ids = torch.tensor(ids)  # [B, 77]
        return torch.stack([ids.where(ids != HOLE, t.pad_token_id) for t in self.tokenizers], 1)


def has_trigger(text, trigger_word="img"):
    """Whether a text holds the trigger word, as a word of its own."""
    return TRIGGER_ID in trigger_tokenizer(trigger_word)(text, verbose=False).input_ids


class LazyPromptEmbeds:
    """Embeddings of all panels' texts, each encoded when a pass needs it; those of the last pass are kept.

    Parameters
    ----------
    texts : list of B str or None
    encode : callable
        ``encode(texts) -> (states [n, 77, D], pooled [n, P])``
    """

    def __init__(self, texts, encode):
        self.texts, self.encode, self.kept = texts, encode, {}

    def __call__(self, rows):
        """States [R, 77, D] and pooled [R, P] of these R panels (LongTensor [R])."""
        texts = [self.texts[i] for i in rows.tolist()]
        new = [text for text in dict.fromkeys(texts) if text not in self.kept]
        self.kept = {text: pair for text, pair in self.kept.items() if text in texts}
        if new:  # each row with a storage of its own, so that it can go alone
            self.kept |= {t: (x.clone(), y.clone()) for t, x, y in zip(new, *self.encode(new), strict=True)}
        return [torch.stack(parts) for parts in zip(*(self.kept[text] for text in texts), strict=True)]
