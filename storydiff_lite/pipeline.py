"""StoryPipeline: an SDXL pipeline that draws a story's panels together, so that they can read each other."""

import copy
import inspect
import math
import numbers
import re
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import CLIPImageProcessorPil

from . import weights
from .attention import SamplingSchedule, Sharing, passes, self_attention_layers, stable_random
from .cast import CastSharing
from .guidance import guide, rescale
from .identity import attach, use_lora
from .loading import Loading, advises
from .story import as_panels
from .tokens import (
    MAX_LENGTH,
    TRIGGER_ID,
    TriggerWordError,
    drop_trigger,
    expand_class_token,
    fit_caption,
    load_tokenizer,
)


@dataclass
class StoryOutput(BaseOutput):
    """What a story became.

    Parameters
    ----------
    images : list of PIL.Image, array or Tensor
        One per panel. By ``output_type``: ``"pil"``; ``"np"`` [F, H, W, 3] in 0..1; ``"pt"`` [F, 3, H, W] in
        0..1; ``"latent"`` [F, 4, h, w].
    panels : list of Panel
        What was drawn.
    seed : int
        What it was drawn with.
    """

    images: object
    panels: list
    seed: int = 0


@dataclass
class IdentityPrompt:
    """A prompt whose class token waits for an identity, and its text-only twin.

    Parameters
    ----------
    prompt_embeds : Tensor [1, 77, D]
        States of both text encoders, the class token repeated once per reference picture.
    class_tokens_mask : bool Tensor [1, 77]
        Where it stands.
    pooled : Tensor [1, P]
        Pooled output of the second text encoder.
    text_embeds, text_pooled : Tensor [1, 77, D], [1, P]
        The same of the prompt without its trigger word.
    """

    prompt_embeds: torch.Tensor
    class_tokens_mask: torch.Tensor
    pooled: torch.Tensor
    text_embeds: torch.Tensor
    text_pooled: torch.Tensor


class StoryPipeline(Loading, StableDiffusionXLPipeline):
    """Tells stories with any SDXL weights.

    ``StoryPipeline.from_pretrained("micro")(["a bear reads", "a bear sleeps"]).images``. The same parts,
    loading and saving as diffusers' ``StableDiffusionXLPipeline``; what differs is the call.
    """

    id_encoder, trigger_word = None, "img"  # see `load_identity`
    sharing = Sharing  # what decides which tokens a panel reads; experiments put another one here
    cast_sharing = CastSharing  # the same for stories whose characters have names

    @classmethod
    def from_pretrained(cls, name="micro", **kwargs):
        """Load ``"micro"`` (trained by this repository), a folder in the SDXL layout, a single-file
        checkpoint, or a model of the hub.

        Parameters
        ----------
        name : str or Path
        **kwargs
            As of ``DiffusionPipeline.from_pretrained``; ``dtype`` is ``torch.float32`` unless given, and
            nothing but safetensors is read.

        Raises
        ------
        WeightsError
            A file of the shipped weights is missing or not the one that was trained; a folder or model that
            is no SDXL pipeline, a file that was cut short, no network, a full disk.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        if name != "micro":
            return super().from_pretrained(name, **kwargs)
        with _no_loading_bars():
            return super().from_pretrained(weights.path("micro"), local_files_only=True, **kwargs)

    # ------------------------------------------------------------------------------------------ calls

    def __call__(
        self,
        story,
        id_images=None,
        consistency=0.5,
        window=None,
        long_story="passes",
        start_merge_step=None,
        num_inference_steps=25,
        guidance_scale=5.0,
        guidance_rescale=0.0,
        seed=0,
        negative_prompt=None,
        same_noise=False,
        layers="up",
        schedule=None,
        recorder=None,
        height=None,
        width=None,
        original_size=None,
        crops_coords_top_left=(0, 0),
        target_size=None,
        eta=0.0,
        generator=None,
        latents=None,
        output_type="pil",
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",),
        resume=None,
        return_dict=True,
    ):
        """Draw the panels of one story together.

        Parameters
        ----------
        story : str, or list of str and Panel
            A story text with one panel a line (``prompt # caption``), or the panels: F of them.
        id_images : PIL.Image, list of PIL.Image, or dict, optional
            Pictures of the person the story is about; needs an identity encoder (`load_identity`).  Panels
            that show the person say so with the trigger word after a noun: ``"a man img reads"``.  In a story
            with a cast: a dict, name -> pictures.
        consistency : float
            0 to 1: the fraction of each panel's tokens that the other panels read in self-attention. 0: plain
            sampling.
        window : int, optional
            Panels that go through the U-Net together, at least 1: a longer story needs no more memory than a
            story of this length.  ``None``: every panel reads every other.
        long_story : {"passes", "attention", "bank"}
            How panels beyond the window are reached (`attention.passes`): overlapping windows over whole
            passes, averaged; sliding windows inside each layer (Algorithm 1, whose memory still grows with
            the story); or a bank, written by the first ``window`` panels and read by the others.
        start_merge_step : int or float, optional
            Delayed conditioning, as released: the steps up to and including this one (counted from 0) read
            the text alone, the later ones the identity too; -1: all read the identity.  A float from 0.0 to
            1.0 is the share of the steps that read the text alone.  0.2 by default, about the released 10 of
            50.  Without ``id_images`` it changes nothing.
        num_inference_steps : int
            Denoising steps, at least 1.
        guidance_scale : float
            Classifier-free guidance; 1 or less: none, and one forward pass instead of two.
        guidance_rescale : float
            0 to 1 (Lin et al. 2305.08891, Eq. 15-16); 0: off.
        seed : int
            0 to 2**63 - 1. The same seed gives the same story on any device: noise is drawn on the CPU, per
            panel.
        negative_prompt : str, optional
            For all panels that have none of their own.
        same_noise : bool
            Start all panels from one noise (the released low-memory code does) instead of one each.
        layers : str or list of str
            Where panels read each other: ``"up"`` (as released), ``"mid"``, ``"down"``, ``"all"``, or
            beginnings of names.
        schedule : SamplingSchedule, optional
            In which steps; always by default, ``SamplingSchedule.released()`` as in the released code.
        recorder : recorder.AttentionRecorder, optional
            Keeps attention maps of this call.
        height, width : int, optional
            Pixels; what the model was made for by default. Multiples of the autoencoder's and the U-Net's
            scale.
        original_size, target_size : (int, int), optional
            (height, width) of SDXL's micro-conditioning (2307.01952, section 2.2); the picture's size by
            default.
        crops_coords_top_left : (int, int)
            (top, left) of the same.
        eta : float
            Of DDIM, 0 to 1; schedulers without it ignore it.
        generator : torch.Generator or list of F, optional
            Draws the noise instead of ``seed`` (which still picks the tokens).
        latents : Tensor [F, 4, h, w], optional
            Initial noise of deviation 1, instead of drawing it.
        output_type : {"pil", "np", "pt", "latent"}
        callback_on_step_end : callable, optional
            As in diffusers: ``callback(pipe, step, timestep, tensors) -> tensors``; it may return changed
            ``latents``, ``prompt_embeds``, ``add_text_embeds``, ``add_time_ids``.
        callback_on_step_end_tensor_inputs : list of str
            Which of those it gets.
        resume : (int, Tensor [F, 4, h, w]), optional
            Go on where another call stopped: the first step (from 0) that is still to be done, and the
            latents as a step callback got them after the step before. Exact with schedulers that keep no
            state of their own (DDIM, Euler).
        return_dict : bool
            ``False`` returns ``(images,)``.

        Returns
        -------
        StoryOutput

        Raises
        ------
        ValueError, TypeError
            Whatever cannot be drawn, before anything is: the message says what to write instead.

        Notes
        -----
        StoryDiffusion (2405.01434), section 3.1; consistent self-attention is in ``attention.py``.
        """
        settings = dict(locals())
        for name in ("self", "story", "seed", "return_dict"):
            settings.pop(name)
        settings["id_images"] = [id_images]
        output = self._tell([as_panels(story)], [_seed(seed)], **settings)[0]
        return output if return_dict else (output.images,)

    def tell_many(self, stories, seeds=None, batch_size=8, **settings):
        """Tell several stories, some in one U-Net call; each as it would be alone (but for rounding).

        Parameters
        ----------
        stories : list of stories
            Each as in a call; their numbers of panels may differ.
        seeds : list of int, optional
            One per story; 0, 1, 2, ... by default.
        batch_size : int
            Stories in a U-Net call.
        **settings
            As of a call, but ``story`` and ``seed``; ``id_images`` holds one list of pictures (or None) per
            story.

        Returns
        -------
        list of StoryOutput
            In the order of ``stories``.
        """
        stories = [as_panels(story) for story in stories]
        seeds = [_seed(s) for s in (range(len(stories)) if seeds is None else seeds)]
        if len(seeds) != len(stories):
            raise ValueError(
                f"There are {len(stories)} stories and {len(seeds)} seeds: give one seed per story."
            )
        _whole("batch_size", batch_size, 1)
        if {"story", "seed", "return_dict", "generator", "latents", "resume"} & settings.keys():
            raise TypeError(
                "tell_many takes stories and seeds, and neither story, seed, return_dict, "
                "generator, latents nor resume."
            )
        bound = inspect.signature(self.__call__).bind(None, **settings)
        bound.apply_defaults()
        settings = {k: v for k, v in bound.arguments.items() if k not in ("story", "seed", "return_dict")}
        people = settings.pop("id_images")
        people = [None] * len(stories) if people is None else list(people)
        if len(people) != len(stories):
            raise ValueError(
                f"There are {len(stories)} stories and id_images for {len(people)}: give a list of pictures, "
                "or None, for each story."
            )

        outputs = [None] * len(stories)
        for panels in sorted({len(s) for s in stories}):
            same = [i for i, s in enumerate(stories) if len(s) == panels]
            for batch in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
                told = self._tell(
                    [stories[i] for i in batch],
                    [seeds[i] for i in batch],
                    id_images=[people[i] for i in batch],
                    **settings,
                )
                for i, output in zip(batch, told, strict=True):
                    outputs[i] = output
        return outputs

    # ------------------------------------------------------------------------------------------ the algorithm

    @advises
    @torch.no_grad()
    def _tell(
        self,
        stories,
        seeds,
        *,
        id_images,
        consistency,
        window,
        long_story,
        start_merge_step,
        num_inference_steps,
        guidance_scale,
        guidance_rescale,
        negative_prompt,
        same_noise,
        layers,
        schedule,
        recorder,
        height,
        width,
        original_size,
        crops_coords_top_left,
        target_size,
        eta,
        generator,
        latents,
        output_type,
        callback_on_step_end,
        callback_on_step_end_tensor_inputs,
        resume,
    ):
        """S stories of F panels each: B = S * F pictures in one batch, story by story."""
        height, width = self._size(height, width)
        id_images = [self._people(images) for images in id_images]  # per story: list of pictures, or None
        merge = self._merge(start_merge_step, num_inference_steps)
        self._check(
            consistency,
            window,
            long_story,
            num_inference_steps,
            guidance_scale,
            guidance_rescale,
            layers,
            schedule,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale, self._guidance_rescale = guidance_scale, guidance_rescale
        self._interrupt = False
        self._clip_skip = self._cross_attention_kwargs = self._denoising_end = None
        device, two = self._execution_device, self.do_classifier_free_guidance
        panels = [panel for story in stories for panel in story]  # B

        # what the U-Net is told: text tokens, pooled text, sizes; unconditional half first
        negatives = [p.negative_prompt if p.negative_prompt is not None else negative_prompt for p in panels]
        prompts = [p.prompt for p in panels]
        who = []  # for each panel: what it reads once the identity comes in, or None
        for story, images in zip(stories, id_images, strict=True):
            who += self._pictured(story, images)
        prompts = [p if w is None else "" for p, w in zip(prompts, who, strict=True)]
        f = len(stories[0])
        parts = passes(f, window, long_story, sharing=consistency > 0)  # what goes through the U-Net together
        halves = [negatives, prompts] if two else [prompts]  # the unconditional half comes first
        if len(parts) == 1 or any(who) or callback_on_step_end is not None or getattr(self, "_all_hooks", []):
            told = [self._encode(texts, device) for texts in halves]  # each: [B, 77, D], [B, P]
        else:  # a long story: a pass's prompts are encoded when it comes, all would need memory by its length
            told = [_Told(self._fit(texts), lambda t: self._encode(t, device)) for texts in halves]
        if any(who):  # text alone, at first
            states, pooled = (x.clone() for x in told[-1])
            for j, w in enumerate(who):
                if w is not None:
                    states[j], pooled[j] = w.text_embeds[0], w.text_pooled[0]
            told[-1] = states, pooled
        sizes = original_size or (height, width), crops_coords_top_left, target_size or (height, width)
        add_time_ids = self._get_add_time_ids(
            *sizes,
            dtype=self.text_encoder_2.dtype,  # [1, 6]
            text_encoder_projection_dim=self.text_encoder_2.config.projection_dim,
        )
        add_time_ids = add_time_ids.to(device).expand(len(panels) * len(told), -1)  # [2B, 6]

        # where it starts: a scheduler of its own, noise per panel
        scheduler = copy.deepcopy(self.scheduler)
        timesteps, _ = retrieve_timesteps(scheduler, num_inference_steps, device)
        first, kept = (0, None) if resume is None else resume
        _step(first, len(timesteps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        shape = self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor
        latents, generator = self._noise(seeds, f, shape, same_noise, generator, latents)
        latents = latents.to(device, add_time_ids.dtype) * scheduler.init_noise_sigma  # [B, 4, h, w]
        latents = latents if kept is None else self._resumed(kept, latents)
        known = inspect.signature(scheduler.step).parameters
        extra = {k: v for k, v in {"eta": eta, "generator": generator}.items() if k in known}

        # which panels go through the U-Net together
        alone = [[panel.no_character for panel in story] for story in stories]
        share = self.sharing(f, consistency, seeds, schedule, window, alone)
        if consistency > 0 and any(panel.characters for panel in panels):  # each reads its own characters
            cast = [[panel.characters for panel in story] for story in stories]
            share = self.cast_sharing(f, consistency, seeds, schedule, window, alone, cast)
            share.check(parts)
        if len(parts) > 1:
            share.window = None  # the passes are the windows
        self._num_timesteps = len(timesteps)
        with (
            recorder.watching(self.unet, share, stories, self.tokenizer) if recorder else nullcontext(),
            share.installed(self.unet, layers) if consistency > 0 else nullcontext(),
            use_lora(self.unet, False) if self.id_encoder else nullcontext(),
            self.progress_bar(total=len(timesteps)) as bar,
        ):
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    break
                if i < first:
                    bar.update()
                    continue
                if i == max(merge, first) and any(who):  # from here on the identity is read too
                    told[-1] = self._merged(*told[-1], who)
                    use_lora(self.unet, True)
                x = scheduler.scale_model_input(latents, t)
                pred = self._predict(x, t, told, add_time_ids, share, i, parts, f)  # [B, 4, h, w]
                latents = scheduler.step(pred, t, latents, **extra, return_dict=False)[0].to(latents.dtype)
                del x, pred  # not beside the next step's

                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": torch.cat([states for states, _ in told]),  # [2B, 77, D]
                        "add_text_embeds": torch.cat([pooled for _, pooled in told]),  # [2B, P]
                        "add_time_ids": add_time_ids,
                    }
                    given = {k: tensors[k] for k in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, i, t, given) or {}
                    latents, add_time_ids = tensors["latents"], tensors["add_time_ids"]
                    both = (tensors[k].chunk(len(told)) for k in ("prompt_embeds", "add_text_embeds"))
                    told = list(zip(*both, strict=True))
                bar.update()

        images = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return [
            StoryOutput(images[j * f : (j + 1) * f], story, seed)
            for j, (story, seed) in enumerate(zip(stories, seeds, strict=True))
        ]

    def _predict(self, x, t, told, add_time_ids, share, step, parts, panels):
        """The guided prediction for latents x [B, 4, h, w], of that shape.

        A panel that is in several passes gets the mean of its predictions.  Sums are kept only of panels that
        a later pass will hold too: a longer story needs no more of them.
        """
        guided, sums = torch.empty_like(x), {}
        passes_of = [sum(panel in some for some, _ in parts) for panel in range(panels)]
        left = list(passes_of)
        for some, role in parts:
            share.enter(step, some, role)
            rows = torch.arange(len(x), device=x.device).view(-1, panels)[:, some.start : some.stop].flatten()
            every = len(some) == panels

            def few(part, every=every, rows=rows):
                return part if every else part[rows]

            said = (half(rows) if isinstance(half, _Told) else map(few, half) for half in told)
            states, pooled = (torch.cat(part) for part in zip(*said, strict=True))  # [2B, 77, D], [2B, P]
            sizes = torch.cat([few(ids) for ids in add_time_ids.chunk(len(told))])  # [2B, 6]
            pred = self.unet(
                torch.cat([few(x)] * len(told)),  # [2B, 4, h, w]
                t,
                encoder_hidden_states=states,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
                return_dict=False,
            )[0]
            pred = pred.unflatten(0, (len(told), -1, len(some)))  # [H, S, F of this pass, 4, h, w]
            for j, panel in enumerate(some):
                total = pred[:, :, j] + sums.pop(panel, 0)  # [H, S, 4, h, w]
                left[panel] -= 1
                if left[panel]:
                    sums[panel] = total
                else:
                    guided[panel::panels] = self._guide(*total / passes_of[panel])
            del pred, total  # not beside the next pass
        return guided

    def _guide(self, first, cond=None):
        """Guidance and its rescaling: both halves, or one without guidance, [S, 4, h, w] -> [S, 4, h, w]."""
        if cond is None:
            return first
        pred, phi = guide(first, cond, self.guidance_scale), self.guidance_rescale
        return rescale(pred, cond, phi) if phi else pred

    # ------------------------------------------------------------------------------------------ identity

    def load_identity(self, name="micro", trigger_word="img", lora=True):
        """Attach an identity encoder, so that `id_images` can be given.

        Parameters
        ----------
        name : str or Path
            ``"micro"`` (trained by this repository), or a folder that ``IDEncoder.save_pretrained`` wrote.
        trigger_word : str
            The word that, after a noun, stands for the pictures.
        lora : bool
            Whether to load the LoRA that was trained with it, where the folder has one.  It is switched on in
            the steps that read an identity, and off in all others.

        Returns
        -------
        StoryPipeline
            This one.

        Raises
        ------
        WeightsError
            A file of the shipped weights is missing or not the one that was trained.
        ValueError
            The encoder's tokens are not as wide as this U-Net's text.
        """
        folder = weights.path("identity") if name == "micro" else Path(name)
        with _no_loading_bars():
            self.id_encoder, self.trigger_word = attach(folder, self.unet, lora), trigger_word
        return self

    def _people(self, images):
        """Reference pictures as a list, or None; whatever is no picture is told."""
        if images is None:
            return None
        if isinstance(images, dict):
            return {name: self._people(pictures) for name, pictures in images.items()} or None
        if self.id_encoder is None:
            raise ValueError(
                "id_images were given, but there is no identity encoder to read them with: call "
                "load_identity() first, or leave id_images out and describe the person in the prompts."
            )
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if not images:
            raise ValueError("id_images is empty: give at least one picture of the person, or leave it out.")
        for image in images:
            if not isinstance(image, Image.Image):
                raise TypeError(f"id_images must be PIL pictures, and one is a {type(image).__name__}.")
        return [image.convert("RGB") for image in images]

    def _pictured(self, story, images):
        """`_identities` of a story; with a dict of pictures, each panel by the first of its characters that
        has some.
        """
        prompts = [panel.prompt for panel in story]
        if not isinstance(images, dict):
            return self._identities(prompts, images)
        cast = {name for panel in story for name in panel.characters}
        for name in images:
            if name not in cast:
                raise ValueError(
                    f"There are pictures of {name!r}, who is in no panel. In the panels are: "
                    f"{', '.join(sorted(cast)) or 'nobody with a name (declare [Name] first)'}."
                )
        found = [None] * len(story)
        for name, pictures in images.items():
            mine = []
            for j, panel in enumerate(story):
                pictured = [n for n in panel.characters if n in images]
                if pictured[:1] == [name]:
                    mine.append(j)
                    if len(pictured) > 1:
                        prompts[j] = _first_trigger(prompts[j], self.trigger_word)
                        warnings.warn(
                            f"Panel {j + 1} shows {' and '.join(pictured)}, who all have pictures. One "
                            f"identity goes into a prompt: {name}'s. The others are drawn by their words.",
                            stacklevel=4,
                        )
            some = self._identities([prompts[j] for j in mine], pictures) if mine else []
            for j, w in zip(mine, some, strict=True):
                found[j] = w
        return found

    def _resumed(self, kept, latents):
        if tuple(kept.shape) != tuple(latents.shape):
            raise ValueError(
                f"resume holds latents {list(kept.shape)}; this story and size have {list(latents.shape)}."
            )
        return kept.to(latents)

    def _merge(self, start, steps):
        """The first step (counted from 0) that reads the identity."""
        start = 0.2 if start is None else start
        if isinstance(start, float):
            _real("start_merge_step", start, 0, 1, "the share of the steps that read the text alone")
            return round(start * steps)
        return _whole("start_merge_step", start, -1) + 1

    @torch.no_grad()
    def _identities(self, prompts, images):
        """For each prompt of a story an `IdentityPrompt` with the pictures fused in, or None where the prompt
        has no trigger word.
        """
        if images is None:
            return [None] * len(prompts)
        embeds, who = self._embed_people(images), []  # [1, n, 1, D]
        for prompt in prompts:
            w = None
            if TRIGGER_ID in _words(self.trigger_word)(prompt, verbose=False).input_ids:
                w = self.encode_identity_prompt(prompt, len(images), self.trigger_word)
                w.prompt_embeds = self.id_encoder.fuse_module(w.prompt_embeds, embeds, w.class_tokens_mask)
            who.append(w)
        if not any(who):
            raise TriggerWordError(
                f"There are id_images, but no panel names the person: write {self.trigger_word!r} after a "
                f'noun, such as "a man {self.trigger_word} reading in the snow".'
            )
        return who

    def _embed_people(self, images):
        """Reference pictures -> embeddings [1, n, 1, D]."""
        size = self.id_encoder.config.image_size
        prepare = self.feature_extractor or CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        pixels = prepare(images, return_tensors="pt").pixel_values[None]  # [1, n, 3, size, size]
        self.id_encoder.to(self._execution_device)
        return self.id_encoder.embed(pixels.to(self._execution_device, self.id_encoder.dtype))

    def _merged(self, states, pooled, who):
        """The conditional half of what the U-Net reads, with the identities in their places."""
        states, pooled = states.clone(), pooled.clone()
        for j, w in enumerate(who):
            if w is not None:
                states[j], pooled[j] = w.prompt_embeds[0], w.pooled[0]
        return states, pooled

    @torch.no_grad()
    def encode_identity_prompt(self, prompt, num_id_images, trigger_word="img"):
        """Encode a prompt that names a person by a class noun and the trigger word after it.

        Parameters
        ----------
        prompt : str
            Such as ``"a man img, reading in the snow"``.
        num_id_images : int
            Reference pictures of the person, at least 1.
        trigger_word : str

        Returns
        -------
        IdentityPrompt

        Raises
        ------
        TriggerWordError
            No trigger word, more than one, or one that does not follow a noun.

        Notes
        -----
        PhotoMaker (2312.04461), section 3.2; ``encode_prompt_with_trigger_word`` of its pipeline.
        """
        ids = _words(trigger_word)(prompt, verbose=False).input_ids  # [BOS, ..., noun, trigger, ..., EOS]
        hole = -1  # each tokenizer has a padding of its own
        fused, mask = expand_class_token(ids, TRIGGER_ID, num_id_images, MAX_LENGTH, hole)
        plain = drop_trigger(ids, TRIGGER_ID, MAX_LENGTH, hole)

        def filled(ids):
            pads = self.tokenizer.pad_token_id, self.tokenizer_2.pad_token_id
            return [[pad if i == hole else i for i in ids] for pad in pads]

        prompt_embeds, pooled = self._encode_ids(*filled(fused))
        text_embeds, text_pooled = self._encode_ids(*filled(plain))
        mask = torch.tensor([mask], device=prompt_embeds.device)
        return IdentityPrompt(prompt_embeds, mask, pooled, text_embeds, text_pooled)

    def _encode_ids(self, ids, ids_2):
        """Ids of both tokenizers [77] -> (states [1, 77, D], pooled [1, P])."""
        states, device = [], self._execution_device
        for encoder, i in ((self.text_encoder, ids), (self.text_encoder_2, ids_2)):
            out = encoder(torch.tensor([i], device=device), output_hidden_states=True)
            states.append(out.hidden_states[-2])
        return torch.cat(states, -1), out.text_embeds

    # ------------------------------------------------------------------------------------------ its steps

    def _encode(self, texts, device):
        """Texts -> (tokens [B, 77, D], pooled [B, P]); each different one is encoded once, None is empty."""
        zeros = [t is None and self.config.force_zeros_for_empty_prompt for t in texts]
        texts = [t or "" for t in self._fit(texts)]
        different = list(dict.fromkeys(texts))
        found = []
        for i in range(0, len(different), 8):  # a long story's prompts need no more memory than a short one's
            part = different[i : i + 8]
            states, _, pooled, _ = self.encode_prompt(part, device=device, do_classifier_free_guidance=False)
            found.append((states, pooled))
        embeds, pooled = (torch.cat(x) for x in zip(*found, strict=True))
        if len(different) == 1 and len(set(zeros)) == 1:  # such as no prompt at all: kept once
            keep = 0 if zeros[0] else 1
            return (embeds * keep).expand(len(texts), -1, -1), (pooled * keep).expand(len(texts), -1)
        rows = torch.tensor([different.index(t) for t in texts], device=embeds.device)
        keep = 1 - torch.tensor(zeros, dtype=embeds.dtype, device=embeds.device)
        return embeds[rows] * keep[:, None, None], pooled[rows] * keep[:, None]

    def _fit(self, texts):
        """Texts as long as both text encoders can read, None left as it is; warns of words that are lost."""
        fitting = {}
        for text in texts:
            if text is None or text in fitting:
                continue
            if TRIGGER_ID in self.tokenizer(text, verbose=False).input_ids:
                raise TriggerWordError(
                    f"The prompt {text!r} holds the trigger word, which stands for pictures of a person, and "
                    "there are no id_images. Give them, or leave the word out."
                )
            fitting[text] = fit_caption(self.tokenizer_2, fit_caption(self.tokenizer, text))
        return [text if text is None else fitting[text] for text in texts]

    def _noise(self, seeds, panels, shape, same_noise, generator, latents):
        """Initial noise [B, *shape] of deviation 1, and a generator for each panel."""
        if generator is None:
            generator = [
                torch.Generator().manual_seed(stable_random("noise", seed, panel).getrandbits(62))
                for seed in seeds
                for panel in range(panels)
            ]
        if latents is not None:
            if tuple(latents.shape) != (len(seeds) * panels, *shape):
                raise ValueError(
                    f"latents must be {[panels, *shape]} for this story and size, not {list(latents.shape)}."
                )
            return latents, generator
        if isinstance(generator, list):
            if len(generator) != len(seeds) * panels:
                raise ValueError(
                    f"The story has {panels} panels: give one generator or {panels}, not {len(generator)}."
                )
            noise = torch.stack([randn_tensor(shape, g, dtype=torch.float32).to("cpu") for g in generator])
        else:
            noise = randn_tensor((panels, *shape), generator, dtype=torch.float32).to("cpu")
        if same_noise:
            noise = noise.view(-1, panels, *shape)[:, :1].expand(-1, panels, *shape).reshape(noise.shape)
        return noise, generator

    def _decode(self, latents, output_type):
        """Latents [B, 4, h, w] -> pictures of this type; decoded in float32 where that is needed."""
        vae = self.vae
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:  # past diffusers' own `to`, which warns of modules that this one does not have
            torch.nn.Module.to(vae, torch.float32)
        mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
        images = []
        for x in latents.split(4):
            x = x.to(vae.dtype) / vae.config.scaling_factor
            if mean is not None and std is not None:
                m, d = (torch.tensor(v).view(1, -1, 1, 1).to(x) for v in (mean, std))
                x = x * d + m
            x = vae.decode(x, return_dict=False)[0]  # [4, 3, H, W], about -1 to 1
            x = x if self.watermark is None else self.watermark.apply_watermark(x)
            images.append(self.image_processor.postprocess(x, output_type=output_type))
        if upcast:
            torch.nn.Module.to(vae, torch.float16)
        if output_type == "pil":
            return [image for part in images for image in part]
        return torch.cat(images) if output_type == "pt" else np.concatenate(images)

    def _size(self, height, width):
        """Pixels, from the model's config where they are not given."""
        sample = self.unet.config.sample_size
        sample = (sample, sample) if isinstance(sample, int) else sample
        unit = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        sizes = []
        for name, given, own in (("height", height, sample[0]), ("width", width, sample[1])):
            size = own * self.vae_scale_factor if given is None else _whole(name, given, 1)
            if size % unit:
                raise ValueError(
                    f"The {name} is {size} pixels; this model can draw multiples of {unit}. The "
                    f"nearest are {max(unit, size // unit * unit)} and "
                    f"{(size // unit + 1) * unit}."
                )
            sizes.append(size)
        return sizes

    def _check(
        self,
        consistency,
        window,
        long_story,
        num_inference_steps,
        guidance_scale,
        guidance_rescale,
        layers,
        schedule,
        output_type,
        callback_inputs,
    ):
        _real("consistency", consistency, 0, 1, "the fraction of a panel's tokens that the other panels read")
        _real("guidance_scale", guidance_scale, 0, math.inf, "how strongly the prompt pulls")
        _real("guidance_rescale", guidance_rescale, 0, 1, "how far guidance's overexposure is undone")
        _whole("num_inference_steps", num_inference_steps, 1)
        if window is not None:
            _whole("window", window, 1)
        if long_story not in ("passes", "attention", "bank"):
            raise ValueError(f"long_story is {long_story!r}; it must be 'passes', 'attention' or 'bank'.")
        if schedule is not None and not isinstance(schedule, SamplingSchedule):
            raise TypeError(
                f"schedule must be a SamplingSchedule, such as SamplingSchedule.released(), not {schedule!r}."
            )
        self_attention_layers(self.unet, layers)
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type is {output_type!r}; it must be 'pil', 'np', 'pt' or 'latent'.")
        unknown = [name for name in callback_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"A step callback cannot get {', '.join(unknown)}; it can get "
                f"{', '.join(self._callback_tensor_inputs)}."
            )


class _Told:
    """Texts of all panels, encoded for a pass when it comes; those of the pass before are kept.

    Parameters
    ----------
    texts : list of B str or None
    encode : callable
        ``encode(texts) -> (states [n, 77, D], pooled [n, P])``
    """

    def __init__(self, texts, encode):
        self.texts, self.encode, self.kept = texts, encode, {}

    def __call__(self, rows):
        """States [R, 77, D] and pooled [R, P] of these R panels."""
        texts = [self.texts[i] for i in rows.tolist()]
        new = [text for text in dict.fromkeys(texts) if text not in self.kept]
        self.kept = {text: pair for text, pair in self.kept.items() if text in texts}
        if new:  # each row with a storage of its own, so that it can go alone
            self.kept |= {t: (x.clone(), y.clone()) for t, x, y in zip(new, *self.encode(new), strict=True)}
        return [torch.stack(parts) for parts in zip(*(self.kept[text] for text in texts), strict=True)]


#: a tokenizer is made once for each trigger word
_words = lru_cache(maxsize=4)(load_tokenizer)


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")
    return int(value)


def _real(name, value, low, high, meaning):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not low <= value <= high or math.isinf(value):
        span = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} is {value}; it is {meaning} and must be {span}.")


def _step(first, steps):
    if not 0 <= _whole("the step of resume", first, 0) < steps:
        raise ValueError(f"resume begins at step {first}; there are {steps} steps, the first is 0.")


def _first_trigger(prompt, trigger):
    """The prompt with the first of its trigger words alone."""
    parts = re.split(rf"\b{re.escape(trigger)}\b", prompt)
    return " ".join((parts[0] + trigger + "".join(parts[1:])).split())


def _seed(seed):
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"The seed must be a whole number, not {seed!r}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"The seed is {seed}; it must be a whole number from 0 to 2**63 - 1.")
    return int(seed)


@contextmanager
def _no_loading_bars():
    """Loading the micro model takes a moment: no bars, which would fill notebooks."""
    import diffusers.utils.logging as a
    import transformers.utils.logging as b

    before = [(m, m.is_progress_bar_enabled()) for m in (a, b)]
    try:
        for module in (a, b):
            module.disable_progress_bar()
        yield
    finally:
        for module, on in before:
            if on:
                module.enable_progress_bar()
