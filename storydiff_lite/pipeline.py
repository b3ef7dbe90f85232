"""StoryPipeline: an SDXL pipeline that draws a story's panels together, so that they can read each other."""

import numbers
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import BaseOutput

from . import cast
from .autoencoder import precise, to_pixels
from .checks import check_number, check_seed
from .denoising import Conditioning, begin, denoise, initial_noise
from .guidance import guided_steps, reads_scale
from .identity import IdentityPrompt
from .inputs import CallInputs
from .neighbours import Carrying
from .plan import StoryPlan
from .portable import initial_noise as portable_noise
from .prompts import PromptEncoder
from .schedule import AttentionPlan
from .sdxl.advice import advises
from .sdxl.loading import Loading, prediction
from .settings import StorySettings, default_steps
from .story import as_panels


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


class NotANumberError(ValueError):
    """A model gave nan or infinite numbers instead of a picture."""


class StoryPipeline(Loading, StableDiffusionXLPipeline):
    """Tells stories with any SDXL weights.

    ``StoryPipeline.from_pretrained("micro")(["a bear reads", "a bear sleeps"]).images``. The same parts,
    loading and saving as diffusers' ``StableDiffusionXLPipeline``; what differs is the call.
    """

    #: who reads whom, by the names in both panels, what says which of their tokens, and what reads prompts;
    #: for experiments
    reading_rule, attention_plan = staticmethod(cast.by_character), AttentionPlan
    prompt_encoder = PromptEncoder

    # ------------------------------------------------------------------------------------------ calls

    def __call__(
        self,
        story,
        id_images=None,
        consistency=0.5,
        window=None,
        long_story="passes",
        picks="random",
        apart="words",
        start_merge_step=None,
        num_inference_steps=None,
        guidance_scale=5.0,
        guidance_start=None,
        guidance_stop=None,
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
        consistency, window, ... and every other field of `settings.StorySettings`
            How it is drawn: see there for what each means, its range and its unit.
        seed : int
            0 to 2**63 - 1. The same seed gives the same story on any device: noise is drawn on the CPU, per
            panel.
        recorder : attention_maps.AttentionRecorder, optional
            Keeps attention maps of this call.
        generator : torch.Generator or list of F, or "portable", optional
            Draws the noise instead of ``seed`` (which still picks the tokens).  ``"portable"``: noise and
            picks both come from ``seed``, by a generator that other languages have too (`portable`).
        latents : float Tensor [F, 4, h, w], optional
            Initial noise of deviation 1, instead of drawing it.
        output_type : {"pil", "np", "pt", "latent"}
        callback_on_step_end : callable, optional
            As in diffusers: ``callback(pipe, step, timestep, tensors) -> tensors``; it may return changed
            ``latents``, ``prompt_embeds``, ``add_text_embeds``, ``add_time_ids``.  With guidance their first
            half is the unconditional one.  It may switch guidance off (``pipe._guidance_scale = 0``) and
            return the second halves, as diffusers' cutoff callbacks do.
        callback_on_step_end_tensor_inputs : list of str
            Which of those it gets; a callback object of diffusers says so itself (``tensor_inputs``).
        resume : (int, Tensor [F, 4, h, w]), optional
            Go on where another call stopped: the first step (from 0) that is still to be done, and the
            latents as a step callback got them after the step before.  Exact, also where the scheduler draws
            noise in each step; a scheduler that keeps more than the latents between two steps (DPM-Solver,
            UniPC, Heun, ...) is refused, and so is a ``generator``, whose state then is not known.
        return_dict : bool
            ``False`` returns ``(images,)``.

        Returns
        -------
        StoryOutput

        Raises
        ------
        ValueError, TypeError
            Whatever cannot be drawn, before anything is: the message says what to write instead.
        NotANumberError
            A panel came out as nan or infinite: half precision is too small for this model.

        Notes
        -----
        StoryDiffusion (2405.01434), section 3.1; consistent self-attention is in ``attention.py``.
        """
        given = locals()
        # a name is a setting, which a recipe can hold; a torch.Generator is none
        named, drawn_by = (generator, None) if isinstance(generator, str) else (None, generator)
        settings, inputs = (
            kind(**{f.name: given[f.name] for f in fields(kind)} | {"generator": value})
            for kind, value in ((StorySettings, named), (CallInputs, drawn_by))
        )
        output = self._tell(
            [as_panels(story)],
            [check_seed(seed)],
            settings,
            inputs=inputs,
            id_images=[id_images],
        )[0]
        return output if return_dict else (output.images,)

    def tell_many(self, stories, seeds=None, batch_size=8, *, id_images=None, **call):
        """Tell several stories, some in one U-Net call; each as it would be alone (but for rounding).

        Parameters
        ----------
        stories : list of stories
            Each as in a call; their numbers of panels may differ.
        seeds : list of int, optional
            One per story; 0, 1, 2, ... by default.
        batch_size : int
            Stories in a U-Net call.
        id_images : list, optional
            For each story its pictures, or None.
        **call
            As of a call, one value for all stories.

        Returns
        -------
        list of StoryOutput
            In the order of ``stories``.
        """
        stories = [as_panels(story) for story in stories]
        seeds = [check_seed(s) for s in (range(len(stories)) if seeds is None else seeds)]
        if len(seeds) != len(stories):
            raise ValueError(
                f"There are {len(stories)} stories and {len(seeds)} seeds: give one seed per story."
            )
        check_number("batch_size", batch_size, numbers.Integral, 1)
        drawn_by = call.get("generator")
        if {"story", "seed", "return_dict", "latents", "resume"} & call.keys() or not (
            drawn_by is None or isinstance(drawn_by, str)
        ):
            raise TypeError(
                "tell_many takes stories and seeds, and neither story, seed, return_dict, "
                "generator (but 'portable'), latents nor resume."
            )
        own = {f.name for f in fields(CallInputs)} & call.keys() - {"generator"}  # its name is a setting
        inputs = CallInputs(**{name: call.pop(name) for name in own})
        settings = StorySettings(**call)
        if inputs.recorder is not None and len(stories) > 1:
            raise ValueError(
                f"A recorder keeps one story, and there are {len(stories)}: call pipe(story, recorder=...) "
                "for each, with a recorder of its own."
            )
        for story in stories:  # before any is drawn
            settings.negatives(len(story))
        id_images = [None] * len(stories) if id_images is None else list(id_images)
        if len(id_images) != len(stories):
            raise ValueError(
                f"There are {len(stories)} stories and id_images for {len(id_images)}: give a list of "
                "pictures, or None, for each story."
            )

        outputs = [None] * len(stories)
        for panels in sorted({len(s) for s in stories}):
            same = [i for i, s in enumerate(stories) if len(s) == panels]
            for batch in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
                drawn = self._tell(
                    [stories[i] for i in batch],
                    [seeds[i] for i in batch],
                    settings,
                    inputs=inputs,
                    id_images=[id_images[i] for i in batch],
                )
                for i, output in zip(batch, drawn, strict=True):
                    outputs[i] = output
        return outputs

    # ------------------------------------------------------------------------------------------ the algorithm

    @advises
    @torch.no_grad()
    def _tell(self, stories, seeds, settings, *, inputs, id_images):
        """S stories of F panels each: B = S * F pictures in one batch, story by story."""
        self._check_parts(inputs.output_type)
        size = height, width = self.picture_size(settings.height, settings.width)
        f = len(stories[0])
        inputs.check(settings, self.scheduler, self._callback_tensor_inputs)
        negatives = settings.negatives(f)
        steps = settings.num_inference_steps or default_steps(self.scheduler)
        guidance = self.guidance_interval(settings)
        scheduler, timesteps, step_arguments = begin(
            self.scheduler, steps, self._execution_device, settings.eta
        )
        plan = StoryPlan.of(self, stories, seeds, settings, id_images, scheduler, height / width)
        self._guidance_scale, self._guidance_rescale = settings.guidance_scale, settings.guidance_rescale
        self._interrupt = False
        self._clip_skip = self._cross_attention_kwargs = self._denoising_end = None
        panels = [panel for story in stories for panel in story]  # B
        conditioning = self._conditioning(plan, panels, negatives, settings, size)

        shape = self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor
        noise = inputs.latents
        if settings.generator == "portable" and noise is None:
            noise = portable_noise(seeds, f, shape, settings.same_noise)
        latents, generator = initial_noise(seeds, f, shape, settings.same_noise, inputs.generator, noise)
        if "generator" in step_arguments:
            step_arguments["generator"] = generator
        latents = latents.to(self._execution_device, conditioning.add_time_ids.dtype)
        latents = latents * scheduler.init_noise_sigma
        first, *start = inputs.begun(latents, len(timesteps))  # a step, [B, 4, h, w]
        del latents, noise  # the loop alone holds the noise, and lets it go

        self._num_timesteps = len(timesteps)
        attention, recorder = plan.attention, inputs.recorder
        with (
            recorder.watching(self.unet, attention, stories, self.tokenizer) if recorder else nullcontext(),
            plan.installed(self.unet, settings.layers),
        ):
            latents = denoise(
                self,
                scheduler,
                timesteps,
                start.pop,
                conditioning,
                attention,
                plan.passes,
                plan.merge,
                first,
                inputs.callback_on_step_end,
                inputs.callback_on_step_end_tensor_inputs,
                guidance,
                **step_arguments,
            )

        several = len(stories) > 1
        names = [f"Panel {j % f + 1}" + f" of story {j // f + 1}" * several for j in range(len(panels))]
        self._check_numbers(latents, names, "U-Net")
        kind = inputs.output_type
        images = latents if kind == "latent" else self.decode(latents, kind, names)
        self.maybe_free_model_hooks()
        return [
            StoryOutput(images[j * f : (j + 1) * f], story, seed)
            for j, (story, seed) in enumerate(zip(stories, seeds, strict=True))
        ]

    def _conditioning(self, plan, panels, negatives, settings, size):
        """`Conditioning` of B panels, of stories with these ``negatives`` [F]."""
        negatives = [
            negative if panel.negative_prompt is None else panel.negative_prompt
            for panel, negative in zip(panels, negatives * (len(panels) // len(negatives)), strict=True)
        ]
        add_time_ids = self._get_add_time_ids(
            tuple(settings.original_size or size),
            tuple(settings.crops_coords_top_left),
            tuple(settings.target_size or size),
            dtype=self.text_encoder_2.dtype,
            text_encoder_projection_dim=self.text_encoder_2.config.projection_dim,
        )
        carried = any(panel.carried for panel in panels)
        # a long story's prompts are encoded pass by pass: all at once would need memory by its length
        lazy = not any(plan.identity_prompts) and not getattr(self, "_all_hooks", [])
        return Conditioning.of(
            Carrying(self.prompts) if carried else self.prompts,
            plan.prompts,
            negatives if self.do_classifier_free_guidance else None,
            plan.identity_prompts,
            add_time_ids.to(self._execution_device),  # [1, 6]
            lazy and len(plan.passes) > 1,
        )

    def _check_parts(self, output_type):
        """Raise ValueError where a part that is needed was left out when the pipeline was loaded; warn where
        the scheduler understands something else than the one that it was made with.
        """
        if (now := prediction(self.scheduler)) != self._predicts and None not in (now, self._predicts):
            warnings.warn(
                f"The scheduler takes what the U-Net predicts for {now!r}, and this pipeline was made with "
                f"one for {self._predicts!r}: the pictures may be noise. Load the pipeline again, and write "
                f"pipe.scheduler = {type(self.scheduler).__name__}.from_config(pipe.scheduler.config).",
                stacklevel=6,
            )
        needed = ["unet", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"]
        needed += ["vae"] if output_type != "latent" else []
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(
                f"This pipeline was loaded without its {' and '.join(missing)}, which drawing needs. Load it "
                "whole, or give the part: StoryPipeline(**pipe.components | {...})."
                + " With output_type='latent' it draws without."
                * (missing == ["vae"])
            )

    def _check_numbers(self, x, names, part):
        """Raise `NotANumberError` unless all numbers of x [B, ...] are finite; one look at all of them."""
        bad = (~torch.isfinite(x).flatten(1).all(1)).tolist()
        if not any(bad):
            return
        which = ", ".join(name for name, is_bad in zip(names, bad, strict=True) if is_bad)
        dtype = str((self.vae if part == "autoencoder" else self.unet).dtype).removeprefix("torch.")
        raise NotANumberError(
            f"{which}: the {part} gave nan or infinite numbers in {dtype}, and there is no picture. "
            + (
                "Its weights or what it was given (latents, a callback, a LoRA, guidance_scale, a scheduler) "
                "are at fault: load the model again, without a LoRA, and look at those."
                if dtype == "float32"
                else "Half precision has too small a range for this model: load it with dtype=torch.float32 "
                "(--dtype float32)."
            )
        )

    def encode_identity_prompt(self, prompt, num_id_images, trigger_word="img"):
        """`identity.IdentityPrompt.encode` with this pipeline's encoders: ``"a man img reads"`` and a number
        of pictures -> `IdentityPrompt`; errors as there.
        """
        return IdentityPrompt.encode(self.prompts, prompt, num_id_images, trigger_word)

    # ------------------------------------------------------------------------------------------ its steps

    @property
    def prompts(self):
        """What encodes texts: ``pipe.prompts(texts)`` gives states [B, 77, D] and pooled text [B, P]."""
        parts = self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer_2
        zero_none, device = self.config.force_zeros_for_empty_prompt, self._execution_device
        return self.prompt_encoder(*parts, zero_none, device, self.maybe_convert_prompt)

    def decode(self, latents, output_type="pil", names=None):
        """Latents [B, 4, h, w] -> pictures of this type; decoded in float32 where that is needed.

        ``names`` says of each what it is, such as "Panel 3", for the message where there is no picture.
        """
        names, images = names or ["A panel"] * len(latents), []
        with precise(self.vae):
            for i, x in enumerate(latents.split(4)):
                x = to_pixels(self.vae, x.to(self._execution_device))  # [4, 3, H, W]
                self._check_numbers(x, names[4 * i : 4 * i + 4], "autoencoder")
                x = x if self.watermark is None else self.watermark.apply_watermark(x)
                images.append(self.image_processor.postprocess(x, output_type=output_type))
        if output_type == "pil":
            return [image for part in images for image in part]
        return torch.cat(images) if output_type == "pt" else np.concatenate(images)

    def guidance_interval(self, settings):
        """The shares of the steps (start, stop) between which a story is guided; what its settings leave open
        is this pipeline's own.  ValueError where no step lies between them.
        """
        start, stop = (
            getattr(self.config, name) if getattr(settings, name) is None else getattr(settings, name)
            for name in ("guidance_start", "guidance_stop")
        )
        if self.unet is not None and reads_scale(self.unet) and (start, stop) != (0, 1):
            raise ValueError(
                f"guidance_start is {start} and guidance_stop {stop}: this U-Net was distilled from a guided "
                "one and is told guidance_scale in every step. Leave both limits out."
            )
        steps = settings.num_inference_steps or default_steps(self.scheduler)
        if settings.guidance_scale > 1 and not guided_steps(steps, start, stop):
            raise ValueError(
                f"guidance_start is {start} and guidance_stop {stop}: of {steps} steps no step would be "
                "guided. Give a start well before the stop, or guidance_scale=1 for no guidance."
            )
        return start, stop

    def picture_size(self, height=None, width=None):
        """Pixels [height, width], from the model's config where they are not given; ValueError where the
        model has no such size.
        """
        sample = self.unet.config.sample_size
        sample = (sample, sample) if isinstance(sample, int) else sample
        unit = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        sizes = []
        for name, given, own in (("height", height, sample[0]), ("width", width, sample[1])):
            size = own * self.vae_scale_factor if given is None else int(given)
            if size % unit:
                raise ValueError(
                    f"The {name} is {size} pixels; this model can draw multiples of {unit}. The "
                    f"nearest are {max(unit, size // unit * unit)} and "
                    f"{(size // unit + 1) * unit}."
                )
            sizes.append(size)
        return sizes
