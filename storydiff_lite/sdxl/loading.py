"""How a pipeline is made, loaded and saved: parts, folders, models of the hub, single files, PhotoMaker, and
adapters.
"""

import functools
import inspect
import json
import os
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from .. import adapters, weights
from ..checks import check_choice
from ..int8 import round_weights
from ..prompts import micro_parts
from ..weights import WeightsError
from . import checks, photomaker
from .advice import explained, nowhere

#: the class of diffusers that reads the folders which a StoryPipeline saves
READABLE = "StableDiffusionXLPipeline"
#: arguments of diffusers that say where on the hub, and how
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def _as_sdxl(init):
    """An ``__init__`` with SDXL's signature, which tells diffusers what a pipeline is made of, and with
    the two limits of guidance.
    """
    base, limits = StableDiffusionXLPipeline.__init__, ("guidance_start", "guidance_stop")
    init = functools.wraps(base)(init)
    init.__annotations__ = base.__annotations__ | dict.fromkeys(limits, float | None)
    by_name = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    own = inspect.signature(base)
    init.__signature__ = own.replace(parameters=[*own.parameters.values(), *map(by_name, limits)])
    return init


def prediction(scheduler):
    """What a scheduler takes the U-Net's prediction for, such as ``"v_prediction"``, or None."""
    return getattr(getattr(scheduler, "config", None), "prediction_type", None)


class Loading:
    """What `StoryPipeline` adds to how ``StableDiffusionXLPipeline`` is made and loaded.

    That is: what it draws with by default, the shipped models, checks, PhotoMaker, and that an identity's own
    LoRA and the user's adapters do not get into each other's way.
    """

    id_encoder, trigger_word = None, "img"  # see `load_identity`
    _id_lora = None  # the mark of the LoRA that came with the encoder

    @_as_sdxl
    def __init__(self, *args, guidance_start=None, guidance_stop=None, **kwargs):
        """As ``StableDiffusionXLPipeline``; what is not said is as where the parts come from.

        Parameters
        ----------
        guidance_start, guidance_stop : float, optional
            Of `settings.StorySettings`: what a call of this pipeline takes by default; 0 and 1.
        """
        given = inspect.signature(super().__init__).bind(*args, **kwargs).arguments
        own = {"guidance_start": guidance_start, "guidance_stop": guidance_stop}
        for name, value in getattr(given.get("unet"), "drawn_with", {}).items():
            if (given | own).get(name) is None:
                (own if name in own else kwargs)[name] = value
        super().__init__(*args, **kwargs)
        limits = {"guidance_start": 0.0, "guidance_stop": 1.0}
        self.register_to_config(**limits | {k: v for k, v in own.items() if v is not None})
        self._predicts = prediction(self.scheduler)

    @property
    def components(self):
        """The parts, as of diffusers: ``StoryPipeline(**pipe.components)`` draws the same.

        The U-Net remembers, as ``drawn_with``, what else the pipeline was told and the parts do not say.
        """
        parts = super().components
        if isinstance(parts["unet"], torch.nn.Module):
            parts["unet"].drawn_with = {
                "force_zeros_for_empty_prompt": self.config.force_zeros_for_empty_prompt,
                "add_watermarker": self.watermark is not None,
                "guidance_start": self.config.guidance_start,
                "guidance_stop": self.config.guidance_stop,
            }
        return parts

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """A pipeline of another one's parts, as diffusers' ``from_pipe``, its identity among them."""
        pipe = super().from_pipe(pipeline, **kwargs)
        own = "id_encoder", "trigger_word", "_id_lora", "reading_rule", "attention_plan", "prompt_encoder"
        for name in own:
            if name in vars(pipeline):
                setattr(pipe, name, getattr(pipeline, name))
        return pipe

    @classmethod
    def from_pretrained(cls, name="micro", **kwargs):
        """Load ``"micro"`` (trained by this repository), a folder in the SDXL layout, a single-file
        checkpoint, or a model of the hub.  ``"micro-int8"`` is ``"micro"`` with the U-Net and the decoder
        rounded to a byte a weight: exactly what the page that draws has.

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
        name = "micro" if name == weights.DATA / "micro" else name
        return (cls._shipped if name in weights.STORY_MODELS else cls._from_place)(name, **kwargs)

    @classmethod
    def _shipped(cls, name, **kwargs):
        """``"micro"``, or ``"micro-int8"``."""
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        dtype = dtype if isinstance(dtype, torch.dtype) else torch.float32
        with weights.quiet():
            folder = weights.path("micro")
            kwargs = micro_parts(dtype, kwargs) | kwargs
            pipe = cls._from_place(folder, local_files_only=True, **kwargs)
        if name == "micro-int8":
            decoding = (pipe.vae.decoder, pipe.vae.post_quant_conv) if pipe.vae is not None else ()
            for part in (pipe.unet, *decoding):
                if part is not None:
                    round_weights(part)
        if pipe.unet is not None:
            pipe.unet.to(memory_format=torch.channels_last)  # convolutions run faster so
        return pipe

    @classmethod
    def _from_place(cls, name, **kwargs):
        """A folder in the SDXL layout, a model of the hub, or a single file."""
        if not isinstance(name, (str, os.PathLike)):
            raise TypeError(f"A model is named by a text or a path, such as 'micro', not by {name!r}.")
        path = Path(name).expanduser()
        if not isinstance(name, str) and str(name) in weights.STORY_MODELS and not path.exists():
            return cls.from_pretrained(str(name), **kwargs)
        if path.is_file():
            return cls.from_single_file(path, **kwargs)
        if str(name) and path.is_dir():
            checks.check_folder(path, kwargs)
            name = path
        elif not checks.HUB_ID.fullmatch(str(name)):
            raise WeightsError(nowhere(str(name)))
        with explained(name):
            hub = {key: kwargs[key] for key in HUB if key in kwargs}
            index = cls.load_config(str(name), **hub)
            checks.check_index(index, name)
            unet = UNet2DConditionModel.load_config(str(name), subfolder="unet", **hub)
            checks.check_unet(unet, name)
            kwargs.setdefault("use_safetensors", True)  # nothing is ever unpickled
            if path.is_dir() and "variant" not in kwargs:
                kwargs |= checks.only_variant(path)
            pipe = super().from_pretrained(name, **kwargs)
        about = path / "identity" / adapters.ABOUT
        if about.is_file():
            try:
                trigger_word = json.loads(about.read_text())["trigger_word"]
            except (ValueError, KeyError, TypeError) as error:
                raise WeightsError(f"{about} cannot be read ({error}): save the pipeline again.") from error
            pipe.load_identity(path / "identity", trigger_word)
        return pipe

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as diffusers does, and the identity encoder with its LoRA, where there is one, in the folder
        ``identity``: `from_pretrained` attaches it again.

        Raises
        ------
        ValueError
            A LoRA that is loaded and not fused: the layout has no place for it.
        """
        folder = Path(save_directory).expanduser()
        models = [m for m in (self.unet, self.text_encoder, self.text_encoder_2) if m is not None]
        adapters.check_saved(*models)
        if self.id_encoder is not None and not folder.is_file():
            adapters.save(folder / "identity", self.id_encoder, self.unet, self.trigger_word)
        else:  # of a pipeline that was saved here before
            (folder / "identity" / adapters.ABOUT).unlink(missing_ok=True)
        with adapters.without_adapters(*models):
            return super().save_pretrained(save_directory, *args, **kwargs)

    def to_json_string(self):
        """What ``model_index.json`` says: the parts are diffusers' own, and so is the class that it names, so
        that whatever reads folders of diffusers reads one of a StoryPipeline.
        """
        own, theirs = (f'"_class_name": "{name}"' for name in (type(self).__name__, READABLE))
        return super().to_json_string().replace(own, theirs)

    # -------------------------------------------------------------------------------------- adapters

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict, adapter_name=None, hotswap=False, **kwargs
    ):
        """As diffusers; an identity's own LoRA stays beside it.

        Raises
        ------
        ValueError
            An ``adapter_name`` under which an identity's own LoRA is known.
        """
        if adapter_name in (adapters.LORA, adapters.EVERYWHERE):
            raise ValueError(
                f"adapter_name {adapter_name!r} is the name of the LoRA that comes with an identity encoder "
                "(load_identity, load_photomaker_adapter): give another."
            )
        super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name, hotswap, **kwargs)

    def unload_lora_weights(self):
        """As diffusers, but for an identity's own LoRA: ``load_identity(lora=False)`` takes that out."""
        mine = adapters.own(self.unet)
        if not mine:
            return super().unload_lora_weights()
        with adapters.others_kept(self.unet):
            self.unet.delete_adapters([name for name in self.unet.peft_config if name not in mine])
        self._lora_loadable_modules = [n for n in type(self)._lora_loadable_modules if n != "unet"]
        try:
            super().unload_lora_weights()
        finally:
            del self._lora_loadable_modules

    def delete_adapters(self, adapter_names):
        """As diffusers; an identity's own LoRA stays as it is.

        Raises
        ------
        ValueError
            The name of an identity's own LoRA.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        mine = adapters.own(self.unet)
        for name in names:
            if name in mine:
                raise ValueError(
                    f"{name!r} is the LoRA of the identity encoder: load_identity(lora=False), or "
                    "load_photomaker_adapter(..., lora_scale=0), takes it out."
                )
        if not mine:
            return super().delete_adapters(names)
        with adapters.others_kept(self.unet):
            super().delete_adapters(names)

    def fuse_lora(
        self,
        components=("unet", "text_encoder", "text_encoder_2"),
        lora_scale=1.0,
        safe_fusing=False,
        adapter_names=None,
        **kwargs,
    ):
        """As diffusers; an identity's own LoRA that is switched while drawing is not fused.

        Raises
        ------
        ValueError
            The name of such a LoRA.
        """
        if adapters.LORA in adapters.own(self.unet) and adapters.LORA in (adapter_names or ()):
            raise ValueError(
                f"{adapters.LORA!r} is the LoRA of the identity encoder, which is on in the steps that read "
                "an identity, and off in all others: it cannot be fused. Leave it out of adapter_names."
            )
        with adapters.own_strength_kept(self.unet):
            super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names, **kwargs)

    def _hold(self, encoder, trigger_word):
        """Remember an encoder, and which LoRA came with it."""
        self.id_encoder, self.trigger_word = encoder, trigger_word
        self._id_lora = adapters.mark(self.unet)

    def check_identity_lora(self):
        """Raise ValueError where the LoRA that came with the encoder is not in the U-Net any more."""
        if self._id_lora is not None and adapters.mark(self.unet) != self._id_lora:
            raise ValueError(
                "The LoRA that was loaded with the identity encoder is no longer in this U-Net: it was taken "
                "out past the pipeline, replaced by a pipeline that shares the U-Net, or the U-Net is "
                "another one. Load it again (load_identity or load_photomaker_adapter)."
            )

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
            checks.check_single_file(path)
            file = str(path)
        unreachable = None
        if "config" not in kwargs:
            unreachable = (
                f"{Path(file).name} holds weights alone. Its configurations and tokenizers are SDXL base's, "
                "on the hub, which cannot be reached: give a folder in the SDXL layout that has them, "
                "from_single_file(file, config=folder)."
            )
        with explained(file, unreachable):
            return super().from_single_file(file, **kwargs)

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
            the steps that read an identity, and off in all others, whatever other LoRAs are loaded, on, off,
            fused or taken out.

        Returns
        -------
        StoryPipeline
            This one.

        Raises
        ------
        WeightsError
            A file of the shipped weights is missing or not the one that was trained; a folder that holds no
            encoder, or a file in it that was cut short.
        ValueError
            The encoder's tokens are not as wide as this U-Net's text.
        """
        folder = weights.path("identity") if name == "micro" else Path(name).expanduser()
        checks.check_identity(folder)
        with weights.quiet():
            self._hold(adapters.attach(folder, self.unet, lora), trigger_word)
        return self

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
        check_choice("lora_steps", lora_steps, ("all", "identity"))
        if isinstance(lora_scale, bool) or not isinstance(lora_scale, (int, float)):
            raise TypeError(f"lora_scale must be a number, not {lora_scale!r}.")
        path = Path(source).expanduser()
        if not path.exists() and checks.HUB_ID.fullmatch(str(source)):
            from huggingface_hub import hf_hub_download

            with explained(source):
                path = Path(hf_hub_download(str(source), weight_name))
        encoder, lora = photomaker.read(path, weight_name)
        self._hold(photomaker.attach(encoder, lora, self.unet, lora_scale, lora_steps), trigger_word)
        return self
