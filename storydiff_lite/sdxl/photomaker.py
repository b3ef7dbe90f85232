"""PhotoMaker v1 as it was published: its file, its ID encoder, its LoRA.

    photomaker-v1.bin
        id_encoder      name -> tensor: what `identity.IDEncoder` is
        lora_weights    name -> tensor: a LoRA of the U-Net's attention, as diffusers names it

The .bin is a pickle. It is read with ``weights_only=True``, which makes tensors and nothing else, so that it
cannot run code. A safetensors file of it has the same two names as prefixes, ``id_encoder.`` and
``lora_weights.``.

Source: PhotoMaker (Li et al. 2312.04461) and ``load_photomaker_adapter`` of its released ``pipeline.py``.
"""

import pickle
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPVisionConfig

from ..adapters import EVERYWHERE, LORA, put_in, take_out
from ..identity import PHOTOMAKER, IDEncoder
from ..weights import WeightsError, check_no_pointer

NAME = "photomaker-v1.bin"
PARTS = ("id_encoder", "lora_weights")


def read(path, weight_name=NAME):
    """The two parts of PhotoMaker's file.

    Parameters
    ----------
    path : str or Path
        The file, or a folder that holds it.
    weight_name : str
        Its name in a folder.

    Returns
    -------
    id_encoder, lora_weights : dict of str to Tensor
        On the CPU.

    Raises
    ------
    WeightsError
        No such file, one that was cut short, a pointer of Git LFS, one that holds more than tensors,
        PhotoMaker v2, or another layout.
    """
    path = Path(path)
    if path.is_dir():
        kinds = (".bin", ".safetensors")
        inside = sorted(p.name for p in path.iterdir() if p.suffix in kinds and p.name[0] != ".")
        if not (path / weight_name).exists():
            raise WeightsError(
                f"There is no {weight_name} in {path}. Name the file with weight_name=...; in the folder: "
                f"{', '.join(inside) or 'no .bin and no .safetensors'}."
            )
        path = path / weight_name
    if not path.is_file():
        raise WeightsError(
            f"There is no file {path}. PhotoMaker v1 is {NAME} of TencentARC/PhotoMaker on the hub, 0.9 GB."
        )
    check_no_pointer(path)
    parts = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    _check(parts, path)
    return parts["id_encoder"], parts["lora_weights"]


def _pickle(path):
    """``torch.load`` of tensors alone."""
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds more than tensors, or is no file of PyTorch, and was not loaded: that could "
            "run code. Take the published file, or a safetensors of it."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise _unreadable(path, "file of PyTorch") from error
    return parts if isinstance(parts, dict) else {}


def _safetensors(path):
    """Tensors by their prefix."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, "safetensors file") from error
    parts = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = tensor
    return parts


def _unreadable(path, kind):
    return WeightsError(
        f"{path.name} ({path.stat().st_size:,} bytes) cannot be read: it was cut short, or is no {kind}. "
        "Fetch it again."
    )


def _check(parts, path):
    if not all(isinstance(parts.get(p), dict) and parts[p] for p in PARTS):
        raise WeightsError(
            f"{path.name} is not laid out as PhotoMaker v1: expected {PARTS[0]} and {PARTS[1]}, found "
            f"{', '.join(map(str, list(parts)[:6])) or 'nothing'}."
        )
    if any(n.startswith("qformer_perceiver.") for n in parts["id_encoder"]):
        raise WeightsError(
            f"{path.name} is PhotoMaker v2. It reads, beside each picture, an embedding of the face that "
            "InsightFace computes (512 numbers), and makes two tokens of each picture by a Q-Former (the "
            "tensors qformer_perceiver.*). Here is the encoder of v1, one token a picture and no face "
            f"recognition: take {NAME} of TencentARC/PhotoMaker."
        )


def config_of(state):
    """The sizes of an encoder, read off its tensors (the part ``id_encoder``): PhotoMaker's own for the
    published file.  `WeightsError` where a tensor that they are read off is missing.
    """
    try:
        patch = state["vision_model.embeddings.patch_embedding.weight"]  # [hidden, 3, patch, patch]
        places = state["vision_model.embeddings.position_embedding.weight"]  # [1 + patches, hidden]
        first = state["vision_model.encoder.layers.0.mlp.fc1.weight"]  # [intermediate, hidden]
        widths = [len(state[f"visual_projection{k}.weight"]) for k in ("", "_2")]  # [D, hidden]
    except KeyError as error:
        raise WeightsError(f"The id_encoder is not PhotoMaker's: it has no tensor {error}.") from None
    hidden, size = patch.shape[0], patch.shape[-1]
    layers = {n.split(".")[3] for n in state if n.startswith("vision_model.encoder.layers.")}
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=first.shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden * PHOTOMAKER["num_attention_heads"] // PHOTOMAKER["hidden_size"]),
        image_size=round((len(places) - 1) ** 0.5) * size,
        patch_size=size,
        projection_dim=widths[0],
        projection_dim_2=widths[1],
    )


def attach(state, lora, unet, lora_scale=1.0, lora_steps="all", config=None):
    """Make the encoder, and put the LoRA into the U-Net.

    Parameters
    ----------
    state, lora : dict of str to Tensor
        ``id_encoder`` and ``lora_weights``, as of `read`.
    unet : UNet2DConditionModel
    lora_scale : float
        0 leaves the LoRA out.
    lora_steps : {"all", "identity"}
        As of ``StoryPipeline.load_photomaker_adapter``.
    config : CLIPVisionConfig, optional
        Of an encoder whose heads are not PhotoMaker's, 64 numbers each; `config_of` by default.

    Returns
    -------
    IDEncoder
        In the U-Net's precision and on its device, for inference.

    Raises
    ------
    WeightsError
        Tensors that are missing, too many, or of another shape.
    ValueError
        The encoder's tokens are not as wide as what the U-Net reads.
    """
    config = config_of(state) if config is None else config
    width, wanted = config.projection_dim + config.projection_dim_2, unet.config.cross_attention_dim
    if width != wanted:
        raise ValueError(
            f"PhotoMaker's tokens have {width} numbers and this U-Net reads {wanted}: it was made for SDXL."
        )
    with torch.device("meta"):  # no time for random weights
        encoder = IDEncoder(config)
    unused = "vision_model.embeddings.position_ids"  # older files have it
    state = {n: t.to(unet.dtype) for n, t in state.items() if n != unused}
    try:
        encoder.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"The id_encoder is not PhotoMaker v1's: {error}") from error
    ids = encoder.vision_model.embeddings
    if getattr(ids, "position_ids", None) is not None:  # a buffer that no file holds
        ids.position_ids = torch.arange(ids.num_positions)[None]
    encoder = encoder.eval().requires_grad_(False).to(unet.device)
    take_out(unet)
    if lora_scale:
        _add_lora(unet, lora, lora_scale, EVERYWHERE if lora_steps == "all" else LORA)
    return encoder


def _add_lora(unet, lora, scale, name):
    """The LoRA in the U-Net, at this strength; other adapters stay as they are."""
    state, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(lora), unet_config=unet.config)
    try:
        put_in(unet, state, name, alphas)
        missed = None
    except (ValueError, RuntimeError, KeyError) as error:  # peft's own errors are of these kinds
        missed = error
    if name not in getattr(unet, "peft_config", {}):
        raise WeightsError(
            "The lora_weights do not fit this U-Net: expected names such as "
            f"unet.down_blocks.1.attentions.0... and SDXL's sizes; the first is {min(lora)!r}."
        ) from missed
    for layer in unet.modules():
        if isinstance(layer, BaseTunerLayer) and name in layer.scaling:
            layer.set_scale(name, scale)
