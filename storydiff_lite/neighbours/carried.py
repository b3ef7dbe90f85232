"""Text that is carried: who somebody is, said in one panel, and read in all.

A text encoder is causal, so that the states of a phrase at the beginning of a prompt do not depend on what
follows. They can stand in another prompt where the short form stood ("a bear", "it"):

    panel 1   a grey bear in a red outfit | reading in the forest
    panel 3   a bear | waving on the beach   ->   (states of the phrase) | (states of) waving on the beach

The states of the rest stay those of the panel's own prompt, and so does the pooled text.  The idea that an
identity's text serves all prompts is 1Prompt1Story's (2501.13554), see `one_prompt`.
"""

from dataclasses import dataclass

import torch

from ..prompts import PromptEncoder
from ..tokens import fit_caption


@dataclass(frozen=True)
class Carried:
    """A prompt that begins with a short form, where a phrase of another panel is read.

    Parameters
    ----------
    text : str
        The prompt, such as ``"a bear waving"``.
    short, phrase : str
        What it begins with, and what is read there: ``"a bear"``, ``"a grey bear in a red outfit"``.
    """

    text: str
    short: str
    phrase: str

    @property
    def full_prompt(self):
        """The prompt with the phrase written out: as many tokens are read, but other states."""
        return self.phrase + self.text[len(self.short) :]


def in_its_place(encoder, states, states_of_phrase, short, phrase):
    """States [R, 77, D] of prompts that begin with ``short``, its own replaced by those of the phrase, which
    stand first in ``states_of_phrase`` [1, 77, D].

    What follows moves back by as many places, and what does not fit any more, padding, is cut off.
    """
    length = states.shape[1]
    old, new = (len(encoder.tokenizers[0](text, verbose=False).input_ids) - 2 for text in (short, phrase))
    phrase = states_of_phrase[:, 1 : 1 + new].expand(len(states), -1, -1)
    return torch.cat([states[:, :1], phrase, states[:, 1 + old :], states[:, -1:].expand(-1, old, -1)], 1)[
        :, :length
    ]


def read_carried(encoder, distinct, texts):
    """States [B, 77, D] and pooled text [B, P] of texts that ``distinct`` reads, some of them `Carried`."""
    states, pooled = distinct([x.text if isinstance(x, Carried) else x for x in texts])
    found = {}  # short form and phrase -> the rows that have them
    for row, x in enumerate(texts):
        if isinstance(x, Carried):
            found.setdefault((x.short, x.phrase), []).append(row)
    states = states.clone() if found else states
    for (short, phrase), rows in found.items():
        states_of_phrase, _ = encoder([phrase])  # [1, 77, D]
        states[rows] = in_its_place(encoder, states[rows], states_of_phrase, short, phrase)
    return [states, pooled]


class Carrying:
    """Reads prompts as another `PromptEncoder`, and those that are `Carried` with their phrase's states."""

    def __init__(self, encoder):
        self.encoder = encoder

    def fit(self, texts):
        """As of `PromptEncoder.fit`; of a prompt that is too long with its phrase, the end is lost."""
        return [self._fit(x) if isinstance(x, Carried) else self.encoder.fit([x])[0] for x in texts]

    def _fit(self, x):
        self.encoder.fit([x.phrase])
        text = x.full_prompt
        for tokenizer in self.encoder.tokenizers:
            text = fit_caption(tokenizer, text)
        return Carried(x.short + text[len(x.phrase) :], x.short, x.phrase)

    def distinct(self, texts):
        """States [B, 77, D] and pooled text [B, P] of texts, of which some may be `Carried`."""
        return read_carried(self.encoder, self.encoder.distinct, texts)


class CarriedText(PromptEncoder):
    """A `PromptEncoder` that reads a phrase wherever a prompt begins with its short form.

    Parameters
    ----------
    text_encoder, ...
        As of `PromptEncoder`.
    phrases : dict
        Short form -> phrase: ``{"a bear": "a grey bear in a red outfit"}``.
    """

    def __init__(self, *args, phrases, **settings):
        super().__init__(*args, **settings)
        self.phrases = phrases

    def distinct(self, texts):
        return read_carried(self, super().distinct, [self.carried(text) for text in texts])

    def carried(self, text):
        """The prompt, as `Carried` if it begins with a short form."""
        for short, phrase in self.phrases.items():
            if text and f"{text} ".startswith(f"{short} "):
                return Carried(text, short, phrase)
        return text
