"""The denoising loop: noise in, latents out.

In each step the U-Net predicts the noise (or velocity) in the latents, with each panel's prompt and, for
guidance, without; the scheduler takes a part of it away. The first steps read the prompts' text alone, the
later ones the identity too: delayed conditioning (PhotoMaker 2312.04461, section 3.3; StoryDiffusion's code).
"""

import copy
import inspect
from dataclasses import dataclass, replace
from functools import partial

import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor

from .adapters import use_lora
from .guidance import guide, guided_steps, rescale, scale_embedding
from .prompts import LazyPromptEmbeds
from .schedule import stable_random
from .windows import Pass


@torch.no_grad()
def denoise(
    pipe,
    scheduler,
    timesteps,
    latents,
    conditioning,
    plan,
    passes,
    merge=0,
    first=0,
    callback=None,
    callback_inputs=("latents",),
    guidance=(0.0, 1.0),
    **step_arguments,
):
    """Denoise the panels of S stories together.

    Parameters
    ----------
    pipe : StoryPipeline
        Its U-Net; its ``guidance_scale``, ``guidance_rescale`` and ``interrupt``, which a callback may set.
    scheduler, timesteps, step_arguments
        As of `begin`.
    latents : Tensor [B, 4, h, w], or a function that gives it
        B = S * F panels, story by story: noise, or what step ``first`` begins with.  A function, where nobody
        else shall keep the noise beside the latents of later steps.
    conditioning : Conditioning
        Of the text alone.
    plan : schedule.AttentionPlan
    passes : list of Pass
        Of each step, as of `windows.passes`.
    merge, first : int
        The first of the timesteps (from 0) that reads the identity; the first to do (others were done in
        another call).
    callback, callback_inputs
        ``callback(pipe, step, t, tensors) -> tensors`` after each step; names of the tensors that it gets.
    guidance : (float, float)
        The shares of the steps between which there is guidance.

    Returns
    -------
    Tensor [B, 4, h, w]
    """
    guided = guided_steps(len(timesteps), *guidance, scheduler.order)
    latents = latents() if callable(latents) else latents
    with use_lora(pipe.unet, False), pipe.progress_bar(total=len(timesteps)) as bar:
        for i, t in enumerate(timesteps):
            if pipe.interrupt:
                break
            if i < first:  # only the noise that the scheduler drew there is drawn again
                nothing = scheduler.scale_model_input(torch.zeros_like(latents), t)
                scheduler.step(nothing, t, nothing, **step_arguments, return_dict=False)
                bar.update()
                continue
            if i == max(merge, first) and any(conditioning.identity_prompts):
                conditioning = conditioning.reading(identity=True)
                use_lora(pipe.unet, True)
            x = scheduler.scale_model_input(latents, t)
            scales = pipe.guidance_scale, pipe.guidance_rescale
            # [B, 4, h, w]
            read = conditioning if i in guided else conditioning.conditional
            pred = predict(pipe.unet, x, t, read, plan, i, passes, *scales)
            after = scheduler.step(pred, t, latents, **step_arguments, return_dict=False)[0]
            latents = after.to(latents.dtype)
            del x, pred, after  # not beside the next step's
            if callback is not None:
                latents, conditioning = _call_back(
                    pipe, callback, callback_inputs, i, t, latents, conditioning
                )
            bar.update()
    return latents


def predict(unet, x, t, conditioning, plan, step, passes, guidance_scale, guidance_rescale=0.0):
    """The guided prediction for latents x [B, 4, h, w], of that shape.

    A panel that is in several passes gets the mean of its predictions.  Sums are kept only of panels that a
    later pass will hold too: a longer story needs no more of them.
    """
    panels = passes[-1].panels.stop
    guided, sums = torch.empty_like(x), {}
    passes_of = [sum(panel in p.panels for p in passes) for panel in range(panels)]
    left = list(passes_of)
    for _, held, role in passes:
        plan.now = Pass(step, held, role)
        rows = torch.arange(len(x), device=x.device).view(-1, panels)[:, held.start : held.stop].flatten()
        states, pooled, sizes = conditioning.rows(rows)  # [H R, 77, D], [H R, P], [H R, 6]
        noisy = torch.cat([x if len(rows) == len(x) else x[rows]] * len(conditioning.halves))
        pred = unet(
            noisy,  # [H R, 4, h, w]
            t,
            encoder_hidden_states=states,
            timestep_cond=scale_embedding(unet, guidance_scale, noisy),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        pred = pred.unflatten(0, (len(conditioning.halves), -1, len(held)))  # [H, S, F of the pass, 4, h, w]
        for j, panel in enumerate(held):
            total = pred[:, :, j] + sums.pop(panel, 0)  # [H, S, 4, h, w]
            left[panel] -= 1
            if left[panel]:
                sums[panel] = total
                continue
            *uncond, cond = total / passes_of[panel]  # [S, 4, h, w] each
            out = guide(*uncond, cond, guidance_scale) if uncond else cond
            guided[panel::panels] = (
                rescale(out, cond, guidance_rescale) if uncond and guidance_rescale else out
            )
        del noisy, pred, total, cond, uncond, out  # not beside the next pass
    return guided


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net reads beside latents and time, for B panels and H halves of guidance.

    Parameters
    ----------
    halves : tuple of H pairs (states [B, 77, D], pooled [B, P]), or of `LazyPromptEmbeds`
        The unconditional half first; without guidance the conditional one alone.
    add_time_ids : Tensor [H B, 6]
        SDXL's sizes.
    identity_prompts : list of B IdentityPrompt or None
    """

    halves: tuple
    add_time_ids: torch.Tensor
    identity_prompts: tuple | list = ()

    @classmethod
    def of(cls, encoder, prompts, negatives, identity_prompts, add_time_ids, lazy=False):
        """Of B prompts and negative prompts (None: no guidance), which a `PromptEncoder` encodes, now or, if
        ``lazy``, when a pass needs them; those with an `IdentityPrompt` read its text alone at first.
        """
        named = zip(prompts, identity_prompts, strict=True)
        prompts = [text if identity is None else "" for text, identity in named]
        halves = [encoder.fit(texts) for texts in (negatives, prompts) if texts is not None]
        encode = partial(LazyPromptEmbeds, encode=encoder.distinct) if lazy else encoder.distinct
        halves = tuple(encode(texts) for texts in halves)  # lazy, or [B, 77, D] and [B, P] each
        found = cls(halves, add_time_ids.expand(len(prompts) * len(halves), -1), identity_prompts)
        return found.reading(identity=False) if any(identity_prompts) else found

    @property
    def conditional(self):
        """The half with the prompts alone: no guidance."""
        batch = len(self.add_time_ids) // len(self.halves)
        return replace(self, halves=self.halves[-1:], add_time_ids=self.add_time_ids[-batch:])

    def rows(self, rows):
        """States [H R, 77, D], pooled [H R, P] and sizes [H R, 6] of R panels (LongTensor [R])."""
        batch = len(self.add_time_ids) // len(self.halves)

        def take(x):
            return x if len(rows) == batch else x[rows]

        halves = (h(rows) if isinstance(h, LazyPromptEmbeds) else map(take, h) for h in self.halves)
        states, pooled = (torch.cat(x) for x in zip(*halves, strict=True))
        return states, pooled, torch.cat([take(ids) for ids in self.add_time_ids.chunk(len(self.halves))])

    def reading(self, identity):
        """The same, its panels with an `IdentityPrompt` reading the identity, or the prompt's text alone."""
        states, pooled = (x.clone() for x in self.halves[-1])
        for j, prompt in enumerate(self.identity_prompts):
            if prompt is not None and identity:
                states[j], pooled[j] = prompt.prompt_embeds[0], prompt.pooled[0]
            elif prompt is not None:
                states[j], pooled[j] = prompt.text_embeds[0], prompt.text_pooled[0]
        return replace(self, halves=(*self.halves[:-1], (states, pooled)))

    def tensors(self):
        """All of it, as diffusers' step callbacks know it: name -> Tensor [H B, ...]."""
        rows = torch.arange(len(self.add_time_ids) // len(self.halves))
        return dict(zip(("prompt_embeds", "add_text_embeds", "add_time_ids"), self.rows(rows), strict=True))

    def changed(self, tensors, guided, guidance_scale):
        """The same with a step callback's `tensors`, and with guidance or without, as it is now."""
        now, halves, found = 1 + guided, len(self.halves), []
        batch = len(self.add_time_ids) // halves
        if now > halves:
            raise ValueError(
                "The step callback switched guidance on, and the story began without: there is no "
                "unconditional half to guide away from. Begin with guidance_scale above 1."
            )
        for name, old in self.tensors().items():
            x = tensors.get(name, old)
            if now < halves and len(x) == len(old):  # guidance is off now: the conditional half remains
                x = x[batch:]
            elif now < halves and len(x) == 1 < batch and torch.equal(x, old[-1:]):
                x = old[batch:]  # diffusers' callbacks keep the last row, the conditional half of one picture
            if len(x) != now * batch:
                raise ValueError(
                    f"The step callback returned {name} with {len(x)} rows; with guidance_scale "
                    f"{guidance_scale} there must be {now * batch}: {batch} panels"
                    + (", the unconditional half first." if now == 2 else ", the conditional half alone.")
                )
            found.append(x)
        states, pooled, ids = found
        return replace(
            self, halves=tuple(zip(states.chunk(now), pooled.chunk(now), strict=True)), add_time_ids=ids
        )


def _call_back(pipe, callback, names, step, t, latents, conditioning):
    """Latents and conditioning after a step callback."""
    texts = conditioning.tensors() if set(names) - {"latents"} else {}
    tensors = {"latents": latents} | texts
    changed = callback(pipe, step, t, {name: tensors[name] for name in names}) or {}
    guided = pipe.do_classifier_free_guidance
    if texts or set(changed) - {"latents"} or 1 + guided != len(conditioning.halves):
        conditioning = conditioning.changed(texts | changed, guided, pipe.guidance_scale)
    return _same_shape(changed.get("latents", latents), latents), conditioning


def _same_shape(changed, latents):
    """A step callback's latents; ValueError unless they are those of all panels."""
    if not isinstance(changed, torch.Tensor) or changed.shape != latents.shape:
        found = list(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise ValueError(
            f"The step callback returned latents {found}; this story's are {list(latents.shape)}, all panels "
            "together."
        )
    return changed


# ------------------------------------------------------------------------------------------ where it begins


def begin(scheduler, steps, device, eta=0.0):
    """A copy of a scheduler, for one call: it, its timesteps [T], and the arguments of its ``step``, of
    which a ``generator`` is still to be filled in.

    Raises
    ------
    ValueError
        A scheduler of another kind of model, or more steps than it has noise levels.
    """
    _check_scheduler(scheduler, steps)
    scheduler = copy.deepcopy(scheduler)
    timesteps, _ = retrieve_timesteps(scheduler, steps, device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    known = inspect.signature(scheduler.step).parameters
    arguments = {k: v for k, v in {"eta": eta, "generator": None}.items() if k in known}
    if "eta" in arguments:
        arguments["eta"] = _safe_eta(scheduler, timesteps, eta)
    return scheduler, timesteps, arguments


def _check_scheduler(scheduler, steps):
    """Raise ValueError where a scheduler would not understand what this kind of U-Net predicts.

    One that knows no ``prediction_type`` is of another kind of model (flow matching, scores, consistency
    models), or takes every prediction for noise: what comes out is no error, but no picture either.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if "prediction_type" not in config or "num_train_timesteps" not in config:
        raise ValueError(
            f"{kind} cannot draw with this model: its configuration has no prediction_type and no noise "
            "levels of a diffusion model. Take another, such as UniPCMultistepScheduler.from_config("
            "pipe.scheduler.config)."
        )
    if steps > config.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {steps}; {kind} has {config.num_train_timesteps} noise levels, and a "
            "step needs one of its own."
        )


def _safe_eta(scheduler, timesteps, eta):
    """``eta``, or a little less where DDIM would draw the root of a number that rounding made negative.

    With eta = 1 the square of what is left of the prediction's direction, 1 - a' - sigma^2, is 0 where the
    schedule ends in pure noise; in 32 bits it may come out as -6e-8, and its root as nan.
    """
    if not eta or not type(scheduler).__name__.startswith("DDIM"):
        return eta
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    for t in timesteps.tolist():
        before = t - stride
        left = 1 - (scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod)
        deviation = scheduler._get_variance(t, before) ** 0.5
        while eta and left - (eta * deviation) ** 2 < 0:
            eta *= 0.9999
    return eta


def initial_noise(seeds, panels, shape, same_noise=False, generator=None, latents=None):
    """Noise of deviation 1 [S F, *shape] for S seeds of F ``panels`` each, drawn on the CPU, and a generator
    for each panel.

    With ``same_noise`` the panels of a story begin alike.  A ``generator`` (or one for each panel) draws
    instead of the seeds, ``latents`` are taken as they are; ValueError where their number is another.
    """
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
