"""Text that is carried: who somebody is, said in one panel, and read in all.

A text encoder is causal, so that the states of a phrase at the beginning of a prompt do not depend on what
follows. They can stand in another prompt where the short form stood ("a bear", "it"):

    panel 1   a grey bear in a red outfit | reading in the forest
    panel 3   a bear | waving on the beach   ->   (states of the phrase) | (states of) waving on the beach

The states of the rest stay those of the panel's own prompt, and so does the pooled text.  The idea that an
identity's text serves all prompts is 1Prompt1Story's (2501.13554), see `one_prompt`.
"""

import torch

from ..prompts import PromptEncoder


class CarriedText(PromptEncoder):
    """A `PromptEncoder` that reads a phrase where a prompt begins with its short form.

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
        states, pooled = super().distinct(texts)
        for short, phrase in self.phrases.items():
            rows = [i for i, text in enumerate(texts) if text and f"{text} ".startswith(f"{short} ")]
            if rows:
                told, _ = self([phrase])  # [1, 77, D]
                states = states.clone()
                states[rows] = self.in_its_place(states[rows], told, short, phrase)
        return [states, pooled]

    def in_its_place(self, states, told, short, phrase):
        """States [R, 77, D] of prompts that begin with ``short``, its own replaced by those in ``told``.

        What follows moves back by as many places, and what does not fit any more, padding, is cut off.
        """
        length = states.shape[1]
        old, new = (len(self.tokenizers[0](text, verbose=False).input_ids) - 2 for text in (short, phrase))
        phrase = told[:, 1 : 1 + new].expand(len(states), -1, -1)
        return torch.cat(
            [states[:, :1], phrase, states[:, 1 + old :], states[:, -1:].expand(-1, old, -1)], 1
        )[:, :length]
