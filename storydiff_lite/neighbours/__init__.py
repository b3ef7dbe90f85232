"""StoryDiffusion's neighbours, one method a file: other ways to keep a story's character, training-free.

Each is an `AttentionPlan` (what is read of the other panels) or a `PromptEncoder` (what is read of the text),
and draws through the pipeline as it is:

    with neighbours.drawing(pipe, plan=neighbours.StyleAligned):
        pipe(story, consistency=1.0)
"""

from contextlib import contextmanager

from .carried import Carried, CarriedText, Carrying
from .consistory import ConsiStory, dift, matches, noised_pass
from .one_prompt import OnePrompt, reweighted
from .picks import SubjectPicks
from .style_aligned import AdaINAlone, FirstPanel, StyleAligned, adain
from .subject import (
    NOUN,
    WORDS,
    SubjectPlan,
    Where,
    between_ends,
    otsu,
    subject_masks,
    watched_layers,
    word_places,
)


@contextmanager
def drawing(pipe, plan=None, encoder=None, rule=None):
    """Within this block a pipeline draws with another method; afterwards it is as before.

    Parameters
    ----------
    pipe : StoryPipeline
    plan : callable, optional
        Instead of ``pipe.attention_plan``: a class of this package, or a ``functools.partial`` of one.
    encoder : callable, optional
        Instead of ``pipe.prompt_encoder``, likewise.
    rule : callable, optional
        Instead of ``pipe.reading_rule``: who reads whom, as of `cast.may_read`.
    """
    ours = {"attention_plan": plan, "prompt_encoder": encoder, "reading_rule": rule}
    ours = {name: value for name, value in ours.items() if value is not None}
    before = {name: vars(pipe)[name] for name in ours if name in vars(pipe)}
    try:
        for name, value in ours.items():
            setattr(pipe, name, value)
        yield pipe
    finally:
        for name in ours:
            delattr(pipe, name)
        for name, value in before.items():
            setattr(pipe, name, value)
