"""1Prompt1Story (Liu et al. 2501.13554): all panels in one prompt, each time with another part made louder.

    P = who, frame 1, frame 2, ..., frame F                                  one text, encoded once
    panel j: rows of the other frames nearly silent, then those of frame j louder (SVR): each time
             s -> beta exp(alpha s) s    of the singular values of a frame's rows and those of the end
    and it reads the identity's rows once more (IPCA, here as further rows of the text)

On this book's model it fails; chapter 12 says why.
"""

import torch

from ..prompts import PromptEncoder

#: (alpha, beta) of the frame that is drawn and of the others, as in the published code
LOUDER, SILENT = (0.01, 1.0), (-0.01, 0.05)


def reweighted(x, alpha, beta):
    """Rows x [R, D] whose singular values s become beta * exp(alpha * s) * s (2501.13554)."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return (u * (beta * (alpha * s).exp() * s)) @ v


class OnePrompt(PromptEncoder):
    """A `PromptEncoder` that reads the F prompts of a story as one; tell one story at a time.

    Parameters
    ----------
    text_encoder, ...
        As of `PromptEncoder`.
    who : int
        The first so many words of each prompt are who it is about.
    svr, ipca : bool
        Whether frames are reweighted, and whether the identity is read once more.
    """

    def __init__(self, *args, who=2, svr=True, ipca=False, **settings):
        super().__init__(*args, **settings)
        self.who, self.svr, self.ipca = who, svr, ipca

    def distinct(self, texts):
        if not all(texts):  # no prompt: the unconditional half; what is read twice is read as once
            states, pooled = super().distinct(texts)
            return [torch.cat([states] * (1 + self.ipca), 1), pooled]
        who = " ".join(texts[0].split()[: self.who])
        frames = [" ".join(text.split()[self.who :]) for text in texts]
        whole = " ".join([who, *frames])
        (x,), pooled = self([whole])  # [77, D], [1, P]
        places, first = [], 1 + self._count(who)
        for frame in frames:
            places.append(list(range(first, first + self._count(frame))))
            first += len(places[-1])
        panels = [self._panel(x, places, j, first) for j in range(len(texts))]
        return [torch.stack(panels), pooled.expand(len(texts), -1)]

    def _panel(self, x, places, j, end):
        """States [77 or 154, D] of panel j: frames stand at ``places``, and the text ends at ``end``."""
        x = x.clone()
        if self.svr:
            for k in sorted(range(len(places)), key=lambda k: k == j):  # its own frame last
                rows = [*places[k], *range(end, len(x))]
                x[rows] = reweighted(x[rows], *(LOUDER if k == j else SILENT))
        if not self.ipca:
            return x
        identity = torch.zeros_like(x)
        identity[: places[0][0]] = x[: places[0][0]]
        return torch.cat([x, identity])

    def _count(self, text):
        return len(self.tokenizers[0](text, verbose=False).input_ids) - 2
