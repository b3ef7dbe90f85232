"""Classifier-free guidance: away from what the model predicts without the caption, towards what it predicts
with it."""

import torch
from diffusers.models.embeddings import get_timestep_embedding


def guided_steps(calls, start=0.0, stop=1.0, order=1):
    """Which of the denoising steps are guided: those from the share ``start`` on and before ``stop``.

    Guided in the first steps too, the micro model often draws two balloons for one (chapter 04).  A likely
    reason: it is not decided yet where a thing stands, and guidance makes much of every place that it may
    have.  An unguided step costs half.

    Parameters
    ----------
    calls : int
        Of the U-Net: as many as there are steps, where each takes one.
    start, stop : float
        0 to 1.
    order : int
        Calls that a step takes: 2 of Heun's method, whose last step takes one.  All of a step are guided, or
        none.

    Returns
    -------
    range
        Of the numbers of calls, from 0.

    Notes
    -----
    Kynkäänniemi et al. (2404.07724), who give the limits as noise levels; as shares of the steps in
    diffusers' guiders.

    >>> list(guided_steps(12, 0.25, 0.75))
    [3, 4, 5, 6, 7, 8]
    """
    steps = -(-calls // order)
    return range(round(start * steps) * order, round(stop * steps) * order)


def guide(uncond, cond, scale):
    """Classifier-free guidance.

    Parameters
    ----------
    uncond, cond : Tensor [B, ...]
        Predictions without and with the caption (noise, v or clean picture: whatever the model predicts).
    scale : float
        1 gives ``cond``, 0 gives ``uncond``; above 1 exaggerates the difference.

    Returns
    -------
    Tensor [B, ...]

    Notes
    -----
    Ho and Salimans (2207.12598), Eq. 6, in the notation of Imagen (2205.11487), Eq. 2: w there is ``scale``
    here.
    """
    return uncond + scale * (cond - uncond)


def rescale(guided, cond, amount):
    """Give a guided prediction the spread of the conditional one again, partly.

    Guidance enlarges the standard deviation of a prediction and so overexposes the picture, worst where the
    noise schedule ends in pure noise.

    Parameters
    ----------
    guided, cond : Tensor [B, ...]
        The guided and the conditional prediction.
    amount : float
        phi of the paper, 0 (no change) to 1 (the conditional prediction's spread); the authors use 0.7.

    Returns
    -------
    Tensor [B, ...]
        ``amount * guided * std(cond) / std(guided) + (1 - amount) * guided``, the deviations over all but the
        first axis. Where the guided prediction has no spread at all it is returned as it is.

    Raises
    ------
    ValueError
        ``amount`` outside 0 to 1.

    Notes
    -----
    Lin et al. (2305.08891), Eq. 15 and 16.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"guidance_rescale is {amount}: it must lie between 0 and 1.")
    axes = list(range(1, guided.ndim))
    spread, wanted = guided.std(dim=axes, keepdim=True), cond.std(dim=axes, keepdim=True)  # [B, 1, ...]
    rescaled = guided * torch.where(spread > 0, wanted / spread, torch.ones_like(spread))  # Eq. 15
    return amount * rescaled + (1 - amount) * guided  # Eq. 16


def reads_scale(unet):
    """Whether a U-Net was distilled from a guided one, and is told the scale: then there are no halves."""
    return unet.config.time_cond_proj_dim is not None


def scale_embedding(unet, scale, like):
    """What such a U-Net reads of the scale, for a batch ``like`` [B, ...]; None for any other U-Net.

    Returns
    -------
    Tensor [B, time_cond_proj_dim], optional
        Sines and cosines of ``1000 * (scale - 1)``.

    Notes
    -----
    Guided distillation (2210.03142), section 3; latent consistency models (2310.04378), which count the scale
    from 0.
    """
    if not reads_scale(unet):
        return None
    told = 1000 * torch.tensor([scale - 1.0], device=like.device)
    width = unet.config.time_cond_proj_dim
    told = get_timestep_embedding(told, width, downscale_freq_shift=1)  # [1, width]
    return told.to(like.dtype).expand(len(like), -1)
