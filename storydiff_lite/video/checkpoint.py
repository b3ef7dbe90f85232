"""Decoders in files: what was trained, beside a U-Net; and the parts of a whole pipeline."""

from __future__ import annotations

import copy
import json
from importlib import import_module
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    MotionAdapter,
    SparseControlNetModel,
    StableDiffusionXLPipeline,
    UNetMotionModel,
)
from diffusers.models.modeling_utils import ModelMixin
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from .. import weights
from ..adapters import without_adapters
from ..motion import SemanticMotionPredictor
from ..prompts import micro_parts
from ..sdxl.advice import explained
from ..sdxl.checks import HUB_ID, check_folder, only_variant
from ..settings import MULTISTEP
from .decoder import Decoder, TokenProjection, motion_adapter, motion_unet

#: of the U-Net, what learnt here besides the motion modules: parts of parameter names
CHANGED = ("attn2.to_q", "attn2.to_out", "attn2.processor", "conv_in")
#: and where frames read the key frames
KEY_FRAME_LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out")


@weights.quiet()
def save_parts(folder, decoder: Decoder, predictor=None):
    """Write what was trained: ``motion_adapter/`` in AnimateDiff's layout, ``unet.safetensors`` with the
    layers of the U-Net that changed, and ``projection/``, ``control/``, ``predictor/`` where there are any;
    in half precision.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unet = copy.deepcopy(decoder.unet).cpu().half()
    c, state = unet.config, unet.state_dict()
    adapter = motion_adapter(
        unet,
        c.motion_num_attention_heads,
        c.motion_max_seq_length,
        c.in_channels if c.in_channels != 4 else None,
        c.use_motion_mid_block,
    ).half()
    adapter.load_state_dict({k: state[k] for k in adapter.state_dict()})
    adapter.save_pretrained(folder / "motion_adapter")
    names = CHANGED + KEY_FRAME_LAYERS * decoder.key_frame_attention
    changed = {
        k: v.contiguous()
        for k, v in state.items()
        if "motion_modules" not in k and any(name in k for name in names)
    }
    save_file(changed, folder / "unet.safetensors")
    parts = {"projection": decoder.projection, "control": decoder.control, "predictor": predictor}
    for name, part in parts.items():
        if part is not None:
            copy.deepcopy(part).cpu().half().save_pretrained(folder / name)
    weights.forget_paths(folder)
    (folder / "decoder.json").write_text(json.dumps(_flags(decoder)) + "\n")


#: switches of a decoder: their names in files and in `Decoder`
FLAGS = {"pin": "clean_key_frames", "look_up": "key_frame_attention"}


def _flags(decoder):
    return {word: getattr(decoder, name) for word, name in FLAGS.items()}


def _renewing(scheduler):
    """DDIM with a multistep solver's settings: it can draw a part of the noise anew in each step (``eta``),
    which they cannot.  Other schedulers stay as they are.
    """
    multistep = type(scheduler).__name__ in MULTISTEP
    return DDIMScheduler.from_config(scheduler.config) if multistep else scheduler


def _motion_files(folder):
    """Where a folder's motion weights are: their folder, and their files; FileNotFoundError without any."""
    folder = Path(folder)
    inner = folder / "motion_adapter" if (folder / "motion_adapter").is_dir() else folder
    weights_of = [p for p in inner.glob("*.safetensors") if p.name.startswith("diffusion_pytorch_model")]
    if not (inner / "config.json").exists() or not weights_of:
        raise FileNotFoundError(
            f"There are no motion weights in {folder}: expected was a folder with config.json and "
            "diffusion_pytorch_model*.safetensors of a MotionAdapter (such as AnimateDiff's), or one that "
            "`python -m storydiff_lite.training video` wrote."
        )
    return inner, weights_of


def save_decoder(folder, decoder):
    """Write a decoder whole, in its own precision; `load_decoder` reads it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _flags(decoder)
    for name in ("unet", "projection", "control"):
        part = getattr(decoder, name)
        config[name] = part and {k: v for k, v in part.config.items() if not k.startswith("_")}
    state = {k: v.detach().cpu().contiguous() for k, v in decoder.state_dict().items()}
    weights.atomic_save(folder / "diffusion_pytorch_model.safetensors", lambda to: save_file(state, to))
    text = json.dumps(config, indent=2) + "\n"
    weights.atomic_save(folder / "config.json", lambda to: to.write_text(text))


def load_decoder(folder, dtype=torch.float32):
    """What `save_decoder` wrote."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    kinds = {"unet": UNetMotionModel, "projection": TokenProjection, "control": SparseControlNetModel}
    parts = {k: kind.from_config(config[k]) if config[k] else None for k, kind in kinds.items()}
    decoder = Decoder(**parts, **{name: config[word] for word, name in FLAGS.items()})
    decoder.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return decoder.to(dtype).eval()


@weights.quiet()
def load_parts(folder, unet, lora=None):
    """What `save_parts` wrote, or an AnimateDiff ``MotionAdapter`` folder, put on a U-Net.

    Parameters
    ----------
    folder : str or Path
    unet : UNet2DConditionModel
        It stays as it is.
    lora : str or Path, optional
        Folder of a LoRA to add (`merge_lora`).

    Returns
    -------
    Decoder
    predictor : SemanticMotionPredictor or None

    Raises
    ------
    FileNotFoundError
        No motion weights, or no LoRA, in the folder.
    ValueError
        Motion weights, or a LoRA, of another U-Net.
    """
    folder = Path(folder)
    inner, weights_of = _motion_files(folder)
    variant = "fp16" if all(".fp16." in p.name for p in weights_of) else None
    adapter = _load(MotionAdapter, inner, unet.dtype, variant=variant)
    have, want = tuple(adapter.config.block_out_channels), tuple(unet.config.block_out_channels)
    if have != want:
        raise ValueError(
            f"The motion weights in {folder} were made for a U-Net with the channels {have}; this one has "
            f"{want}. Use an adapter of the same model family."
        )
    kinds = {
        "projection": TokenProjection,
        "control": SparseControlNetModel,
        "predictor": SemanticMotionPredictor,
    }
    parts = {
        name: _load(kind, folder / name, unet.dtype).to(unet.device) if (folder / name).is_dir() else None
        for name, kind in kinds.items()
    }
    settings = folder / "decoder.json"
    settings = json.loads(settings.read_text()) if settings.exists() else {"pin": False}
    flags = {FLAGS[word]: on for word, on in settings.items()}
    decoder = Decoder(motion_unet(unet, adapter), parts["projection"], parts["control"], **flags)
    if (folder / "unet.safetensors").exists():
        state = {k: v.to(unet.dtype) for k, v in load_file(folder / "unet.safetensors").items()}
        unknown = decoder.unet.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{folder / 'unet.safetensors'} does not belong to this U-Net: {unknown[0]}.")
    if lora is not None:
        merge_lora(decoder, parts["predictor"], lora)
    return decoder.eval(), parts["predictor"]


def merge_lora(decoder, predictor, folder):
    """Add what a LoRA learnt to the weights of a decoder, and to those of its predictor, for good.

    Parameters
    ----------
    decoder : Decoder
    predictor : SemanticMotionPredictor or None
    folder : str or Path
        With ``unet/`` and ``predictor/``, each as peft saves a LoRA (`training.passages.save`).

    Raises
    ------
    FileNotFoundError
        There is no LoRA in the folder.
    ValueError
        It is one of another decoder.
    """
    for name, part in (("unet", decoder.unet), ("predictor", predictor)):
        if part is None:
            raise ValueError(
                f"The LoRA in {folder} belongs to a decoder with a predictor; this one has none."
            )
        inner = Path(folder) / name
        # both: peft would take weights that run code when they are loaded where there are no others
        if not all((inner / f).exists() for f in ("adapter_config.json", "adapter_model.safetensors")):
            raise FileNotFoundError(
                f"There is no LoRA in {inner}: expected was a folder with adapter_config.json and "
                "adapter_model.safetensors, as `python -m storydiff_lite.training passages` writes it."
            )
        try:
            PeftModel.from_pretrained(part, inner).merge_and_unload()
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"The LoRA in {inner} was made for another {name}: {first}") from None


class Loading:
    """How a `TransitionPipeline` is loaded and saved."""

    @classmethod
    def from_pretrained(
        cls,
        name="micro",
        motion=None,
        image_encoder=None,
        dtype=torch.float32,
        lora=None,
        refiner=None,
        base=None,
    ):
        """Load the micro models, or real ones.

        Parameters
        ----------
        name : str or Path
            ``"micro"``, or a Stable Diffusion model: a folder in diffusers' layout (also one that
            `StoryPipeline.save_pretrained` wrote), or a name of the hub; or a folder that `save_pretrained`
            of this pipeline wrote, which has all parts but those that are given.
        motion : str or Path, optional
            Folder of motion weights: an AnimateDiff ``MotionAdapter``, or what the training wrote
            (`save_parts`).  The shipped ones by default, for ``"micro"`` only.
        image_encoder : str or Path, optional
            Folder of a ``CLIPVisionModelWithProjection``; by default the one of the model, where it has one.
            Without a trained projection and predictor in ``motion`` its tokens are not read.
        dtype : torch.dtype
        lora : str or Path, optional
            ``"passages"``, for ``"micro"``: the shipped LoRA that learnt what lies between two panels of a
            story; or a folder (`merge_lora`).
        refiner : bool, optional
            Keep the U-Net that draws pictures, which `refine` needs.  By default for ``"micro"`` only: it
            takes as much memory as the one that draws videos, less its motion modules.
        base : StoryPipeline, optional
            One of the same model, and ``dtype``: its U-Net, autoencoder and encoders are shared, not loaded
            once more.

        Raises
        ------
        WeightsError
            A file of the shipped weights is missing or changed.
        FileNotFoundError, ValueError
            No motion weights, or those of another model.
        """
        lora = weights.path(lora) if lora == "passages" else lora
        if name == "micro":
            folder, motion = weights.path("micro"), motion or weights.path("video")
        else:
            folder, kind = _find_model(name)
            if kind == cls.__name__:
                return cls._from_saved(folder, motion, image_encoder, dtype, lora, refiner)
        if motion is None:
            raise FileNotFoundError(
                f"{name} alone draws pictures, not videos: give a folder of motion weights, motion=..., such "
                "as AnimateDiff's adapter for the same model family."
            )
        _motion_files(motion)  # before anything large is fetched
        with weights.quiet(), explained(name):
            if base is None:
                texts = micro_parts(dtype) if name == "micro" else {}
                base = _load_picture_pipeline(folder, dtype, **texts)
            if image_encoder is not None:
                encoder = _load_image_encoder(image_encoder, dtype)
            else:
                encoder = getattr(base, "image_encoder", None)
            with without_adapters(base.unet):
                decoder, predictor = load_parts(motion, base.unet, lora)
        return cls(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            decoder,
            _renewing(base.scheduler),
            encoder,
            predictor,
            getattr(base, "text_encoder_2", None),
            getattr(base, "tokenizer_2", None),
            base.unet if (name == "micro" if refiner is None else refiner) else None,
        )

    @classmethod
    def _from_saved(cls, folder, motion, image_encoder, dtype, lora, refiner):
        """What `save_pretrained` wrote."""
        if motion is not None:
            raise ValueError(f"{folder} has motion weights of its own: leave motion out.")
        index = json.loads((folder / "model_index.json").read_text())
        kinds = {k: v for k, v in index.items() if isinstance(v, list) and v[0] is not None}
        if refiner is False:
            kinds.pop("refiner", None)
        elif refiner and "refiner" not in kinds:
            raise ValueError(f"{folder} was saved without a U-Net that refines: leave refiner out.")
        parts = {}
        with weights.quiet(), explained(folder):
            if image_encoder is not None:
                parts["image_encoder"] = _load_image_encoder(image_encoder, dtype)
            for name in kinds.keys() - parts.keys():
                parts[name] = _load_part(folder / name, *kinds[name], dtype)
            if lora is not None:
                merge_lora(parts["decoder"], parts.get("predictor"), lora)
        return cls(**parts)

    @weights.quiet()
    def save_pretrained(self, save_directory, safe_serialization=True):
        """Write all parts, so that ``from_pretrained(save_directory)`` draws the same; nothing but
        safetensors.

        Raises
        ------
        ValueError
            A part that could not be loaded again; nothing is written then.
        """
        if not safe_serialization:
            raise ValueError("Nothing but safetensors is written: leave safe_serialization out.")
        folder, index = Path(save_directory), {"_class_name": type(self).__name__}
        if folder.is_file():
            raise ValueError(f"{folder} is a file. Give a folder.")
        for name, part in self.components.items():
            index[name] = _class_of(name, part)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_index.json").unlink(missing_ok=True)  # it comes last: before, this is no pipeline
        for name, part in self.components.items():
            if isinstance(part, Decoder):
                save_decoder(folder / name, part)
            elif part is not None:
                part.save_pretrained(folder / name)
        weights.forget_paths(folder)
        text = json.dumps(index, indent=2) + "\n"
        weights.atomic_save(folder / "model_index.json", lambda to: to.write_text(text))


def _find_model(name):
    """A folder or a name of the hub, and the class of the pipeline that is there, where that is known."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists() or not HUB_ID.fullmatch(str(name)):
            raise ValueError(
                f"There is no video model {name}: give 'micro', a folder in the layout of diffusers, or the "
                "name of a model on the hub (owner/name)."
            )
        return str(name), None
    check_folder(folder)
    return folder, json.loads((folder / "model_index.json").read_text()).get("_class_name")


def _load_picture_pipeline(name, dtype, **parts):
    """A pipeline of diffusers that draws pictures, with a U-Net and these parts; nothing is unpickled."""
    index = DiffusionPipeline.load_config(str(name))
    have = {k for k, v in index.items() if isinstance(v, (list, tuple)) and v[0] is not None}
    missing = [k for k in ("unet", "vae", "text_encoder", "tokenizer", "scheduler") if k not in have]
    if missing:
        raise ValueError(
            f"{name} is a {index.get('_class_name')} without {', '.join(missing)}: a video model begins with "
            "Stable Diffusion or SDXL."
        )
    kind = StableDiffusionXLPipeline if index["_class_name"] == "StoryPipeline" else DiffusionPipeline
    more = only_variant(Path(name)) if Path(name).is_dir() else {}
    return kind.from_pretrained(name, dtype=dtype, use_safetensors=True, **more, **parts)


def _load_image_encoder(folder, dtype):
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with an image encoder.")
    return _load(CLIPVisionModelWithProjection, folder, dtype)


def _load(kind, folder, dtype, **more):
    """A part of diffusers or transformers, or one that is saved as theirs are, from its folder: nothing is
    fetched and nothing unpickled.
    """
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(folder, local_files_only=True)
    more["torch_dtype" if issubclass(kind, ModelMixin) else "dtype"] = dtype
    return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **more).eval()


def _class_of(name, part):
    """Where the class of a pipeline's part is found, [library, class]; ValueError if not by `_load_part`."""
    if part is None:
        return [None, None]
    modules = part.modules() if isinstance(part, nn.Module) else [part]
    adapters = next((m.peft_config for m in modules if getattr(m, "peft_config", None)), None)
    if adapters:
        raise ValueError(
            f"The {name} carries adapters ({', '.join(adapters)}), which would not be saved with it: "
            "fuse or unload them first."
        )
    kind = type(part)
    if kind in (Decoder, SemanticMotionPredictor):
        return ["storydiff_lite", kind.__name__]
    library = kind.__module__.partition(".")[0]
    if library not in ("diffusers", "transformers") or not hasattr(import_module(library), kind.__name__):
        raise ValueError(
            f"The {name} is a {kind.__module__}.{kind.__name__}, which could not be loaded again: save it "
            "yourself, and give the pipeline another one, or none."
        )
    return [library, kind.__name__]


def _load_part(folder, library, kind, dtype):
    """A part that `TransitionPipeline.save_pretrained` wrote."""
    if library == "storydiff_lite":
        return (
            load_decoder(folder, dtype)
            if kind == "Decoder"
            else _load(SemanticMotionPredictor, folder, dtype)
        )
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"{folder} names a class of {library}, which is not read.")
    return _load(getattr(import_module(library), kind), folder, dtype)
