"""What can be known of weights before a gigabyte is read or fetched: what kind of model it is
(`model_index.json`, the U-Net's config), and whether each safetensors file is whole.
"""

import json
import re
import struct
from pathlib import Path

from ..weights import WeightsError, check_no_pointer

#: what a hub id looks like
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NEEDED = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WANTED = (
    "StoryPipeline needs SDXL: two text encoders and a U-Net that reads their pooled text and the picture's "
    'size, such as "stabilityai/stable-diffusion-xl-base-1.0" or a model that was fine-tuned from it.'
)
#: what a part's folder must hold: one of these sets of files; all others, their config
FILES = {
    "tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "tokenizer_2": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "scheduler": (("scheduler_config.json",),),
}


def check_folder(folder, given=()):
    """Raise `WeightsError` unless a folder holds a pipeline whose files are whole, but for parts that are
    ``given`` from elsewhere.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").exists():
        inside = sorted(p.name for p in folder.iterdir() if p.name[0] != ".")
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
    for file in sorted(folder.rglob("*")):
        if any(part[0] == "." or part == "__MACOSX" for part in file.relative_to(folder).parts):
            continue  # a Mac writes ._name beside each file, a hub's client .cache
        if file.suffix == ".safetensors":
            check_whole(file)
        elif file.suffix in (".json", ".txt"):
            check_no_pointer(file)
    check_parts(folder, given)


def check_parts(folder, given=()):
    """Raise `WeightsError` where a part that the pipeline needs has no folder, or one without its files."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{folder / 'model_index.json'} is no JSON ({error}): fetch it again.") from None
    for name in NEEDED:
        entry = index.get(name)
        if name in given or not isinstance(entry, list) or entry[0] is None:
            continue  # what an index lacks is reported by `check_index`
        part = folder / name
        sets = FILES.get(name, (("config.json",),))
        if not any(all((part / file).is_file() for file in files) for files in sets):
            wanted = " or ".join(" and ".join(files) for files in sets)
            lacks = f"has no {wanted}" if part.is_dir() else "is missing"
            raise WeightsError(
                f"{folder} is not whole: its folder {name}/ {lacks}, and model_index.json lists it. Fetch "
                f"the model again, or copy {name}/ from a model of the same kind."
            )


def check_identity(folder):
    """Raise `WeightsError` unless a folder holds an identity encoder whose files are whole."""
    if not (folder / "config.json").is_file():
        where = "has no config.json" if folder.is_dir() else "is no folder"
        raise WeightsError(
            f"{folder} {where}: an identity encoder is a folder that IDEncoder.save_pretrained wrote, or "
            '"micro", the one that comes with this package.'
        )
    for file in sorted(folder.rglob("*.safetensors")):
        if file.name[0] != ".":
            check_whole(file)


def check_whole(file):
    """Raise `WeightsError` unless a safetensors file is as long as its header says; returns this header: name
    -> dtype, shape and place of each tensor.
    """
    file = Path(file)
    check_no_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as f:
        start = f.read(8)
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


def only_variant(folder):
    """``{"variant": "fp16"}`` where the U-Net lies in the folder in half precision alone."""
    files = [f.name for f in (folder / "unet").glob("*.safetensors") if f.name[0] != "."]
    return {"variant": "fp16"} if files and all(".fp16" in f for f in files) else {}
