"""How weights come into a pipeline: folders, models of the hub, single files, PhotoMaker; and what to say
when they do not.

Everything that can be looked at is looked at before a gigabyte is read or fetched: what kind of model it is
(`model_index.json`, the U-Net's config), and whether each safetensors file is whole.
"""

import difflib
import errno
import functools
import json
import os
import re
import struct
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError

from . import photomaker
from .weights import WeightsError

#: what a hub id looks like
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: arguments of diffusers that say where on the hub, and how
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
NEEDED = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WANTED = (
    "StoryPipeline needs SDXL: two text encoders and a U-Net that reads their pooled text and the picture's "
    'size, such as "stabilityai/stable-diffusion-xl-base-1.0" or a model that was fine-tuned from it.'
)


class Loading:
    """What `StoryPipeline` adds to the loading of ``StableDiffusionXLPipeline``: checks, and PhotoMaker."""

    @classmethod
    def from_pretrained(cls, name, **kwargs):
        """Load a folder in the SDXL layout, a model of the hub, or a single file; see `StoryPipeline`."""
        path = Path(name).expanduser()
        if path.is_file():
            return cls.from_single_file(path, **kwargs)
        if path.is_dir():
            check_folder(path)
            name = path
        elif not HUB_ID.fullmatch(str(name)):
            raise WeightsError(_nowhere(str(name)))
        with explained(name):
            hub = {key: kwargs[key] for key in HUB if key in kwargs}
            index = cls.load_config(str(name), **hub)
            check_index(index, name)
            unet = UNet2DConditionModel.load_config(str(name), subfolder="unet", **hub)
            check_unet(unet, name)
            kwargs.setdefault("use_safetensors", True)  # nothing is ever unpickled
            if path.is_dir() and "variant" not in kwargs:
                kwargs |= _only_variant(path)
            return super().from_pretrained(name, **kwargs)

    @classmethod
    def from_single_file(cls, file, **kwargs):
        """Load a single-file checkpoint, as ``StableDiffusionXLPipeline.from_single_file`` does.

        Parameters
        ----------
        file : str or Path
            ``*.safetensors`` with U-Net, autoencoder and both text encoders under the names of the original
            SDXL code.
        **kwargs
            As there. ``config`` is a folder in the SDXL layout, or a hub id, that holds the configurations
            and the tokenizers: by default SDXL base's on the hub, which takes a network (or its cache).

        Raises
        ------
        WeightsError
            No such file, one that was cut short, or a model that is not SDXL.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        path = Path(file).expanduser()
        if path.exists() or not str(file).startswith("http"):
            check_single_file(path)
            file = str(path)
        alone = None
        if "config" not in kwargs:
            alone = (
                f"{Path(file).name} holds weights alone. Its configurations and tokenizers are SDXL base's, "
                "on the hub, which cannot be reached: give a folder in the SDXL layout that has them, "
                "from_single_file(file, config=folder)."
            )
        with explained(file, alone):
            return super().from_single_file(file, **kwargs)

    def load_photomaker_adapter(
        self, source, weight_name=photomaker.NAME, trigger_word="img", lora_scale=1.0, lora_steps="all"
    ):
        """Attach PhotoMaker v1, so that `id_images` can be given.

        Parameters
        ----------
        source : str or Path
            The published file (``photomaker-v1.bin``, or a safetensors of it), a folder that holds it, or a
            hub id such as ``"TencentARC/PhotoMaker"``.
        weight_name : str
            The file, in a folder or on the hub.
        trigger_word : str
            The word that, after a noun, stands for the pictures.
        lora_scale : float
            How strongly PhotoMaker's LoRA changes the U-Net; 0 leaves it out.
        lora_steps : {"all", "identity"}
            When the LoRA is on: in all steps, as released; or, as `load_identity` does it, in those that
            read an identity.

        Returns
        -------
        StoryPipeline
            This one.

        Raises
        ------
        WeightsError
            No such file, one that was cut short, PhotoMaker v2, or another layout.
        ValueError
            The encoder's tokens are not as wide as this U-Net's text.

        Notes
        -----
        PhotoMaker (Li et al. 2312.04461); ``load_photomaker_adapter`` of its pipeline.
        """
        if lora_steps not in ("all", "identity"):
            raise ValueError(f"lora_steps is {lora_steps!r}; it must be 'all' or 'identity'.")
        if isinstance(lora_scale, bool) or not isinstance(lora_scale, (int, float)):
            raise TypeError(f"lora_scale must be a number, not {lora_scale!r}.")
        path = Path(source).expanduser()
        if not path.exists() and HUB_ID.fullmatch(str(source)):
            from huggingface_hub import hf_hub_download

            with explained(source):
                path = Path(hf_hub_download(str(source), weight_name))
        encoder, lora = photomaker.read(path, weight_name)
        self.id_encoder = photomaker.attach(encoder, lora, self.unet, lora_scale, lora_steps)
        self.trigger_word = trigger_word
        return self


# ------------------------------------------------------------------------------------------ looking first


def check_folder(folder):
    """Raise `WeightsError` unless a folder holds a pipeline whose files are whole."""
    folder = Path(folder)
    if not (folder / "model_index.json").exists():
        inside = sorted(p.name for p in folder.iterdir())
        single = [n for n in inside if n.endswith((".safetensors", ".ckpt"))]
        config = folder / "config.json"
        part = json.loads(config.read_text()).get("_class_name") if config.exists() else None
        if part:
            hint = f"It holds one part, a {part}: give the folder above it."
        elif single:
            hint = f"{single[0]} may be a single-file checkpoint: StoryPipeline.from_single_file takes those."
        else:
            hint = f"In it: {', '.join(inside[:8]) or 'nothing'}."
        raise WeightsError(
            f"{folder} is no pipeline: it has no model_index.json, which says what the parts are (folders "
            f"such as unet/, vae/, text_encoder/, text_encoder_2/). {hint}"
        )
    for file in sorted(folder.rglob("*.safetensors")):
        check_whole(file)


def check_whole(file):
    """Raise `WeightsError` unless a safetensors file is as long as its header says.

    Returns
    -------
    dict
        Its header: name -> dtype, shape and place of each tensor.
    """
    file = Path(file)
    size = file.stat().st_size
    with file.open("rb") as f:
        start = f.read(8)
        if start == b"version ":
            raise WeightsError(
                f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository."
            )
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > min(size, 100_000_000):
            raise WeightsError(
                f"{file} ({size:,} bytes) is no safetensors file, or was cut short at its start."
            )
        try:
            header = json.loads(f.read(length))
        except ValueError:
            raise WeightsError(f"{file} is no safetensors file: its header cannot be read.") from None
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    whole = 8 + length + max((v["data_offsets"][1] for v in tensors.values()), default=0)
    if size != whole:
        raise WeightsError(
            f"{file} was cut short: it has {size:,} of {whole:,} bytes. Fetch it again; a download that "
            "broke off goes on where it stopped."
        )
    return tensors


def check_index(index, name):
    """Raise `WeightsError` unless a ``model_index.json`` is that of an SDXL pipeline."""
    kind = index.get("_class_name", "an unknown pipeline")
    have = {k for k, v in index.items() if isinstance(v, (list, tuple)) and v[0] is not None}
    missing = [k for k in NEEDED if k not in have]
    if not missing:
        return
    if "unet" not in have:
        why = "It has no U-Net" + (" but a transformer" if "transformer" in have else "") + "."
    elif "text_encoder_2" not in have:
        why = "It has one text encoder, as Stable Diffusion 1.5 and 2.1 do."
    elif missing == ["text_encoder", "tokenizer"]:
        why = "It is SDXL's refiner, which reads the second text encoder alone: take the base model."
    else:
        why = f"Without {', '.join(missing)} it cannot draw."
    raise WeightsError(f"{name} is a {kind}. {why} {WANTED}")


def check_unet(config, name):
    """Raise `WeightsError` unless a U-Net's config is one that the pipeline can draw with."""
    if config.get("addition_embed_type") != "text_time":
        width = config.get("cross_attention_dim")
        like = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2.1"}.get(width, "another model")
        raise WeightsError(
            f"The U-Net of {name} reads text of width {width} and no picture sizes: it is that of {like}. "
            f"{WANTED}"
        )
    if config.get("in_channels", 4) != 4:
        raise WeightsError(
            f"The U-Net of {name} takes {config['in_channels']} channels instead of 4: it was made for "
            f"inpainting or editing a picture. {WANTED}"
        )


def check_single_file(path):
    """Raise `WeightsError` unless a single-file checkpoint is a whole one of SDXL."""
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path.name} is not a safetensors file. Others can run code when they are loaded: convert it, "
            "or fetch the safetensors that nearly every model has."
        )
    names = check_whole(path)
    if any(n.startswith("conditioner.embedders.1.") for n in names):
        return
    if any(n.startswith("cond_stage_model.") for n in names):
        why = "it has one text encoder, as Stable Diffusion 1.5 and 2.1 do."
    elif any(n.startswith("conditioner.embedders.0.") for n in names):
        why = "it is SDXL's refiner, which reads the second text encoder alone."
    elif any("lora" in n for n in names):
        why = "it is a LoRA: load a model first, then pipe.load_lora_weights(file)."
    else:
        why = f"it has no text encoders. Its first tensor is {min(names, default='missing')!r}."
    raise WeightsError(f"{path.name} is no single-file checkpoint of SDXL: {why} {WANTED}")


def _only_variant(folder):
    """``{"variant": "fp16"}`` where the U-Net lies in the folder in half precision alone."""
    files = [f.name for f in (folder / "unet").glob("*.safetensors")]
    return {"variant": "fp16"} if files and all(".fp16" in f for f in files) else {}


def _nowhere(name):
    near = difflib.get_close_matches(name, ["micro"], 1, 0.6)
    if near:
        return f"There is no model {name!r}. Did you mean {near[0]!r}?"
    return (
        f"There is no folder or file {name!r}, and a model of the hub is called owner/name, such as "
        f'"stabilityai/stable-diffusion-xl-base-1.0". "micro" is the model that comes with this package.'
    )


# ------------------------------------------------------------------------------------------ what went wrong


class explained:  # noqa: N801  (reads as a statement: with explained(name))
    """Within this block, what the network, the hub or the disk refuse becomes a `WeightsError` that says what
    to do.

    Parameters
    ----------
    name : str or Path
        What is loaded.
    unreachable : str, optional
        What to say where the hub would have been needed for something else.
    """

    def __init__(self, name, unreachable=None):
        self.name, self.unreachable = name, unreachable

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, WeightsError):
            return
        chain, link = [], error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        text = " ".join(f"{type(e).__name__}: {e}" for e in chain)
        if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain):
            raise WeightsError(
                f"The disk is full: {self.name} was not loaded. SDXL takes 7 GB in half precision. Make "
                "room, or set HF_HOME to a folder on another disk; a download that broke off goes on where "
                "it stopped."
            ) from error
        if any(isinstance(e, SafetensorError) for e in chain):
            raise WeightsError(
                f"A weight file of {self.name} cannot be read ({error}): it was cut short. Fetch it again "
                "with force_download=True."
            ) from error
        if any(isinstance(e, GatedRepoError) for e in chain):
            raise WeightsError(
                f"{self.name} asks for a licence to be accepted: do so on its page on the hub, then "
                "`hf auth login`."
            ) from error
        if any(isinstance(e, RepositoryNotFoundError) for e in chain):
            raise WeightsError(f"There is no model {self.name} on the hub, or it is private.") from error
        local = Path(str(self.name)).exists()
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        reach = (
            "ConnectionError",
            "ConnectError",
            "Timeout",
            "OfflineMode",
            "LocalEntryNotFound",
            "couldn't connect",
        )
        if offline and not local and isinstance(error, (OSError, ValueError)):
            raise WeightsError(
                f"{self.name} is not on this machine (or not all of it), and HF_HUB_OFFLINE forbids to fetch "
                f"it. Unset HF_HUB_OFFLINE, or, where there is a network, run `hf download {self.name}` and "
                "give the folder that it names."
            ) from error
        if isinstance(error, HfHubHTTPError) or any(word in text for word in reach):
            raise WeightsError(
                self.unreachable
                or f"{self.name} could not be fetched: the hub cannot be reached. Give a folder that is on "
                "this machine, or try again with a network; what was fetched is kept."
            ) from error


def advice(pipe, panels, window):
    """What to switch on, in this order, when memory does not suffice: what is not on yet.

    Parameters
    ----------
    pipe : StoryPipeline
    panels : int
        Of the story.
    window : int or None
        As of the call.
    """
    together = min(panels, window or panels)
    said = []
    if pipe.unet.dtype == torch.float32 and pipe.unet.device.type != "cpu":
        said.append("load in half precision: from_pretrained(..., dtype=torch.float16), half of the memory")
    if together > 4:
        said.append(f"window=4: the memory of 4 panels instead of {together}, for a story of any length")
    if not getattr(pipe, "_all_hooks", []) and torch.cuda.is_available():
        said.append(
            "pipe.enable_model_cpu_offload() instead of pipe.to('cuda'): one part at a time on the GPU; "
            "where that is not enough, pipe.enable_group_offload(torch.device('cuda'), "
            "offload_type='leaf_level')"
        )
    if pipe.vae is not None and not getattr(pipe.vae, "use_slicing", True):
        said.append("pipe.vae.enable_slicing(): decode the pictures one by one")
    if pipe.vae is not None and not getattr(pipe.vae, "use_tiling", True):
        said.append("pipe.vae.enable_tiling(): decode each picture in tiles")
    if 1 < together <= 4:
        said.append(f"fewer panels at once: window={together - 1} or less")
    size = pipe.unet.config.sample_size
    if isinstance(size, int) and size * pipe.vae_scale_factor > 768:
        said.append("smaller pictures: height=768, width=768")
    return said


def advises(tell):
    """Decorator of the pipeline's ``_tell``: what runs out of memory says which option to switch on."""

    @functools.wraps(tell)
    def told(self, stories, seeds, **settings):
        try:
            return tell(self, stories, seeds, **settings)
        except RuntimeError as error:
            out = isinstance(error, torch.OutOfMemoryError)
            if not out and "can't allocate memory" not in str(error):
                raise
            panels, cause = len(stories[0]), error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(cause))
        size = f" ({wanted[1]} more were asked for)" if wanted else ""
        steps = "; ".join(f"({i}) {s}" for i, s in enumerate(advice(self, panels, settings["window"]), 1))
        raise torch.OutOfMemoryError(
            f"The memory does not suffice for {panels} panels{size}. Switch on, one after the other: {steps}."
        ) from cause

    return told
