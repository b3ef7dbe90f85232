"""What the panels of a call read, of each other and of the text: the settings, put together for the loop."""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from . import cast
from .identity import IdentityReader, one_trigger
from .neighbours import Carried, SubjectPicks, between_ends, watched_layers
from .portable import PortableOrder
from .prompts import has_trigger
from .regions import Regions, RegionTexts
from .schedule import AttentionPlan, self_attention_layers
from .windows import Pass, passes


@dataclass
class StoryPlan:
    """What S stories of F panels read: B = S F panels, story by story.

    Parameters
    ----------
    passes : list of Pass
        Which panels go through the U-Net together, in each step.
    attention : AttentionPlan
        What panels read of each other.
    prompts : list of B str or Carried
        What each reads of the text.
    identity_prompts : list of B IdentityPrompt or None
        What it reads from call ``merge`` of the U-Net (from 0) on, where there are pictures of a person.
    merge : int
    texts : RegionTexts, optional
        What regions read instead of their panel's prompt.
    """

    passes: list[Pass]
    attention: AttentionPlan
    prompts: list
    identity_prompts: list
    merge: int
    texts: RegionTexts | None = None

    @classmethod
    def of(cls, pipe, stories, seeds, settings, id_images, scheduler, aspect):
        """Of a pipeline and the arguments of its call.

        Parameters
        ----------
        pipe : StoryPipeline
        stories : list of S lists of F Panel
        seeds : list of S int
        settings : StorySettings
        id_images : list of S
            For each story its pictures, or None, as of a call.
        scheduler : diffusers scheduler
            As of `denoising.begin`: it knows its timesteps.
        aspect : float
            Height over width of the pictures.

        Raises
        ------
        ValueError, TypeError
            Settings, panels or pictures that do not go together; nothing has been encoded then.
        """
        panels, f = [panel for story in stories for panel in story], len(stories[0])
        self_attention_layers(pipe.unet, settings.layers)  # an error now, if there are none
        if settings.of_subject:
            watched_layers(pipe.unet)
            if pipe.attention_plan is not AttentionPlan:
                raise ValueError(
                    f"picks='subject' is the plan of StoryDiffusion, and this pipeline draws with another "
                    f"one, {pipe.attention_plan}. Leave one of them out."
                )
        reader = IdentityReader(pipe.id_encoder, pipe.prompts, pipe.feature_extractor, pipe.trigger_word)
        id_images = [reader.pictures(images) for images in id_images]
        if any(id_images):
            pipe.check_identity_lora()
        steps = -(-len(scheduler.timesteps) // scheduler.order)  # each of so many calls of the U-Net
        merge = settings.first_merged_step(steps, warn=any(id_images)) * scheduler.order
        for story, images in zip(stories, id_images, strict=True):
            _check_carried(story, images, pipe.trigger_word)

        placed = [j % f + 1 for j, panel in enumerate(panels) if panel.places]
        if placed and settings.apart == "words":
            warnings.warn(
                f"Panel {placed[0]} says where its characters stand, and apart='words' does not look at it: "
                "give apart='regions' (--apart regions), or leave the places out.",
                stacklevel=6,
            )
        sharing = settings.consistency > 0
        through = passes(f, settings.window, settings.long_story, sharing)
        in_layers = settings.window if len(through) == 1 else None  # several passes are the windows
        regions = None  # whose tokens are whose
        if settings.apart != "words" and any(len(panel.characters) > 1 for panel in panels):
            regions = Regions(stories, aspect, pipe.reading_rule, settings.apart == "isolated")
        may_read = torch.stack([cast.may_read(story, pipe.reading_rule) for story in stories])  # [S, F, F]
        if sharing and any(panel.characters for panel in panels):
            each = regions or Regions(stories, aspect, pipe.reading_rule)  # character by character
            cast.check(each.may_read, through)

        identity_prompts, texts, kind = [], None, pipe.attention_plan
        for story, images in zip(stories, id_images, strict=True):
            identity_prompts += reader.read_story(story, images, regions is not None)
        if regions:
            texts = RegionTexts.of(regions, stories, id_images, reader, merge, words=sharing)
        if settings.of_subject:
            words, later = (w.view(len(stories), f, -1) for w in word_tokens(pipe, panels, identity_prompts))
            kind = partial(SubjectPicks, words=words, later=(merge, later), aspect=aspect)
        attention = kind(may_read, settings.consistency, seeds, settings.schedule, in_layers)
        attention.regions = regions
        if settings.generator == "portable":
            attention.draw = PortableOrder(self_attention_layers(pipe.unet, "all"))
        prompts = [Carried(p.prompt, *p.carried) if p.carried else p.prompt for p in panels]
        return cls(through, attention, prompts, identity_prompts, merge, texts)

    @contextmanager
    def installed(self, unet, layers="up"):
        """Within this block the layers of a U-Net read so; afterwards it has its old processors back."""
        texts, attention = self.texts, self.attention
        with (
            texts.installed(unet, attention) if texts else nullcontext(),
            attention.installed(unet, layers) if attention.sampling_rate > 0 else nullcontext(),
        ):
            yield


def word_tokens(pipe, panels, identity_prompts):
    """Which tokens of B panels' prompts are words, bool [B, 77]: before an identity is read, and then."""
    end, trigger = pipe.tokenizer.eos_token_id, pipe.trigger_word
    words = between_ends(pipe.prompts.ids([panel.full_prompt for panel in panels])[:, 0], end)
    later = words.clone()
    for j, prompt in enumerate(identity_prompts):
        if prompt is None:
            continue
        pictures = int(prompt.class_tokens_mask.sum())
        text = [one_trigger(panels[j].prompt, trigger)]
        words[j] = between_ends(pipe.prompts.text_only_ids(text, trigger)[:, 0], end)[0]
        ids, _ = pipe.prompts.class_token_ids(text, pictures, trigger)
        later[j] = between_ends(ids[:, 0], end)[0]
    return words, later


def _check_carried(story, images, trigger):
    """Raise ValueError where a phrase that is carried names somebody of whom there are pictures."""
    for number, panel in enumerate(story, 1):
        if images and panel.carried and has_trigger(panel.carried[1], trigger):
            raise ValueError(
                f"Panel {number} stands for {panel.carried[1]!r}, and pictures of a person cannot be "
                f"carried as text. Write it out: {panel.full_prompt!r}; or give the person a name: "
                f"'[Name] {panel.carried[1]}' before the story."
            )
