"""What to say, and what to switch on, when weights do not come in or the memory does not suffice."""

import difflib
import errno
import functools
import os
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError

from ..weights import STORY_MODELS, WeightsError

#: words in the names or texts of errors where there is no network
UNREACHABLE = ("ConnectionError", "ConnectError", "Timeout", "OfflineMode", "LocalEntryNotFound")
UNREACHABLE += ("couldn't connect",)


def nowhere(name):
    """What to say of a name that is neither a folder, nor a file, nor a hub id."""
    near = difflib.get_close_matches(name, STORY_MODELS, 1, 0.6)
    if near:
        return f"There is no model {name!r}. Did you mean {near[0]!r}?"
    return (
        f"There is no folder or file {name!r}, and a model of the hub is called owner/name, such as "
        f'"stabilityai/stable-diffusion-xl-base-1.0". "micro" is the model that comes with this package.'
    )


@contextmanager
def explained(name, unreachable=None):
    """Within this block, what the network, the hub or the disk refuse becomes a `WeightsError` that says what
    to do.

    Parameters
    ----------
    name : str or Path
        What is loaded.
    unreachable : str, optional
        What to say where the hub would have been needed for something else.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        what_to_do = _what_to_do(error, name, unreachable)
        if what_to_do is None:
            raise
        raise WeightsError(what_to_do) from error


def _what_to_do(error, name, unreachable):
    """What to say of an error in loading, or None where it is of none of these kinds."""
    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def any_is(kind):
        return any(isinstance(e, kind) for e in chain)

    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain):
        return (
            f"The disk is full: {name} was not loaded. SDXL takes 7 GB in half precision. Make room, or set "
            "HF_HOME to a folder on another disk; a download that broke off goes on where it stopped."
        )
    if any_is(SafetensorError):
        return (
            f"A weight file of {name} cannot be read ({error}): it was cut short. Fetch it again with "
            "force_download=True."
        )
    if any_is(GatedRepoError):
        return (
            f"{name} asks for a licence to be accepted: do so on its page on the hub, then `hf auth login`."
        )
    if any_is(RepositoryNotFoundError):
        return f"There is no model {name} on the hub, or it is private."
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline and not Path(str(name)).exists() and isinstance(error, (OSError, ValueError)):
        return (
            f"{name} is not on this machine (or not all of it), and HF_HUB_OFFLINE forbids to fetch it. "
            f"Unset HF_HUB_OFFLINE, or, where there is a network, run `hf download {name}` and give the "
            "folder that it names."
        )
    text = " ".join(f"{type(e).__name__}: {e}" for e in chain)
    if isinstance(error, HfHubHTTPError) or any(word in text for word in UNREACHABLE):
        return unreachable or (
            f"{name} could not be fetched: the hub cannot be reached. Give a folder that is on this machine, "
            "or try again with a network; what was fetched is kept."
        )
    return None


def advice(pipe, panels, window):
    """What to switch on, in this order, when memory is too small for so many panels: what is not on yet."""
    together = min(panels, window or panels)
    steps = []
    if pipe.unet.dtype == torch.float32 and pipe.unet.device.type != "cpu":
        steps.append("load in half precision: from_pretrained(..., dtype=torch.float16), half of the memory")
    if together > 4:
        steps.append(f"window=4: the memory of 4 panels instead of {together}, for a story of any length")
    if not getattr(pipe, "_all_hooks", []) and torch.cuda.is_available():
        steps.append(
            "pipe.enable_model_cpu_offload() instead of pipe.to('cuda'): one part at a time on the GPU; "
            "where that is not enough, pipe.enable_group_offload(torch.device('cuda'), "
            "offload_type='leaf_level')"
        )
    if pipe.vae is not None and not getattr(pipe.vae, "use_slicing", True):
        steps.append("pipe.vae.enable_slicing(): decode the pictures one by one")
    if pipe.vae is not None and not getattr(pipe.vae, "use_tiling", True):
        steps.append("pipe.vae.enable_tiling(): decode each picture in tiles")
    if 1 < together <= 4:
        steps.append(f"fewer panels at once: window={together - 1} or less")
    size = pipe.unet.config.sample_size
    if isinstance(size, int) and size * pipe.vae_scale_factor > 768:
        steps.append("smaller pictures: height=768, width=768")
    return steps


def advises(draw):
    """Decorator of what draws stories: what runs out of memory says which option to switch on."""

    @functools.wraps(draw)
    def advised(self, stories, seeds, settings, **call):
        try:
            return draw(self, stories, seeds, settings, **call)
        except RuntimeError as error:
            out = isinstance(error, torch.OutOfMemoryError)
            if not out and "can't allocate memory" not in str(error):
                raise
            panels, cause = len(stories[0]), error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(cause))
        size = f" ({wanted[1]} more were asked for)" if wanted else ""
        steps = "; ".join(f"({i}) {s}" for i, s in enumerate(advice(self, panels, settings.window), 1))
        raise torch.OutOfMemoryError(
            f"The memory does not suffice for {panels} panels{size}. Switch on, one after the other: {steps}."
        ) from cause

    return advised
