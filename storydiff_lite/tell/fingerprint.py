"""What a comic was made with, and what a pipeline is in sixteen digits: two that draw differently have
different ones, whatever their names.

It goes over all that a picture depends on: every weight's bits, the adapters and their scales, the attention
processors, the configurations, the scheduler. Each tensor is summed where it lies, so that a GPU's weights do
not travel; the sums are of integers, so they are the same on every device.
"""

from __future__ import annotations

import hashlib
import json
import numbers
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import nn

from .. import weights

#: words of 8 bytes that go into one sum
CHUNK = 1 << 18
#: of a configuration: where it came from and who wrote it, not what it draws
ELSEWHERE = ("transformers_version", "torch_dtype", "dtype", "name_or_path", "architectures")
#: attributes of layers that no picture depends on
IDLE = ("training", "gradient_checkpointing")


def pipeline_print(pipe):
    """A fingerprint of a diffusers pipeline.

    Parameters
    ----------
    pipe : DiffusionPipeline
        On any device, also with its parts offloaded.

    Returns
    -------
    str
        Sixteen hexadecimal digits. Two pipelines with the same ones have the same weights, adapters, scales,
        attention processors, configurations and scheduler, and so draw the same.
    """
    found = hashlib.sha256()
    parts = dict(pipe.components) | {"id_encoder": getattr(pipe, "id_encoder", None)}
    for name in sorted(parts):
        _say(found, name, _kind(parts[name]))
        _part(found, parts[name])
    own = {k: v for k, v in pipe.config.items() if not k.startswith("_") and k not in parts}
    rules = {name: getattr(pipe, name, None) for name in ("trigger_word", "reading_rule", "attention_plan")}
    rules |= {name: value for name, value in vars(pipe).items() if name == "prompt_encoder"}  # another one
    _say(found, "pipeline", own, rules, getattr(pipe, "watermark", None) is not None)
    return found.hexdigest()[:16]


def _part(found, part):
    config = getattr(part, "config", None)
    if config is not None:
        _say(found, _config(config))
    if hasattr(part, "get_added_vocab"):  # a tokenizer: words of textual inversions
        _say(found, len(part), part.get_added_vocab(), part.model_max_length)
    if isinstance(part, nn.Module):
        _module(found, part)


def _module(found, part):
    for name, module in part.named_modules():
        plain = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in IDLE}
        plain = {k: _plain(v) for k, v in plain.items()}
        _say(found, name, _kind(module), {k: v for k, v in plain.items() if v is not None})
        reads = getattr(module, "processor", None)
        if reads is not None and not isinstance(reads, nn.Module):  # how attention is computed
            own = vars(reads) if hasattr(reads, "__dict__") else {}
            _say(found, _kind(reads), {k: _plain(v) for k, v in own.items() if not k.startswith("_")})
        if hasattr(module, "active_adapters"):  # of peft: which of them are read
            off = getattr(module, "disable_adapters", False) is True
            active = module.active_adapters if not callable(module.active_adapters) else []
            _say(found, "off" if off else active, getattr(module, "merged_adapters", []))
    for name, tensor in _tensors(part):
        _say(found, name, str(tensor.dtype), list(tensor.shape))
        found.update(_sums(tensor))


def _tensors(part):
    """Names and tensors of a part; where its weights wait elsewhere for their turn, those."""
    waiting = {}
    for prefix, module in part.named_modules():
        of = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if of is not None:
            waiting[prefix] = of
    for name, tensor in part.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.is_meta:
            prefix, _, last = name.rpartition(".")
            tensor = waiting.get(prefix, {}).get(last, tensor) if prefix in waiting else tensor
        yield name, tensor


@torch.no_grad()
def _sums(x):
    """Bytes that say which bits a tensor has: sums of its words, each times a number of its place."""
    if x.is_meta or not x.numel():
        return b""
    raw = x.detach().reshape(-1).contiguous().view(torch.uint8)
    if len(raw) % 8 or raw.storage_offset() % 8:  # words of 8 bytes want both
        raw = torch.cat([raw, raw.new_zeros(-len(raw) % 8)])
    words, places = raw.view(torch.int64), _places(str(x.device))
    sums = [(part * places[: len(part)]).sum() for part in words.split(CHUNK)]
    return torch.stack(sums).cpu().numpy().tobytes()


@lru_cache(maxsize=2)
def _places(device):
    """Odd numbers: a word that changes always changes its product with one, modulo 2**64."""
    drawn = torch.randint(-(2**62), 2**62, (CHUNK,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)


def _kind(thing):
    """The name of a thing's class, or of a function; of a partial one, what it adds too."""
    if isinstance(thing, partial):
        return [_kind(thing.func), *(f"{k}={_kind(v)}" for k, v in thing.keywords.items())]
    kind = thing if isinstance(thing, (type, FunctionType)) else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(value):
    """A setting that can be written down; None for everything else."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, numbers.Number):
        return repr(value)
    if isinstance(value, (list, tuple)):
        plain = [_plain(v) for v in value]
        return None if any(v is None for v in plain) else plain
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return None


def _config(config):
    """A configuration of diffusers or transformers as a dict, without where it came from."""
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in ELSEWHERE}


def _say(found, *things):
    found.update(json.dumps(things, sort_keys=True, default=_kind).encode())


def made_by(recipe, pipe):
    """What the pixels depend on beside the recipe: versions, device, and which weights."""
    return {
        "storydiff_lite": _version("storydiff_lite"),
        "torch": torch.__version__.split("+")[0],
        "diffusers": _version("diffusers"),
        "device": get_module_execution_device(pipe.unet).type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "model": model_print(recipe.model),
        "pipeline": pipeline_print(pipe),
    }


def model_print(name):
    """A fingerprint of a model: of the shipped one by its checksums, of a folder by its configurations and
    the sizes of its files, of one on the hub by its name.
    """
    if name in weights.STORY_MODELS:
        manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
        text = json.dumps({k: v for k, v in manifest.items() if k.startswith("micro/")}, sort_keys=True)
        text += name.removeprefix("micro")
    elif Path(name).is_dir():
        files = sorted(f for f in Path(name).rglob("*") if f.is_file() and not f.name.startswith("."))
        text = "\n".join(
            f"{f.relative_to(name).as_posix()} {f.read_text() if f.suffix == '.json' else f.stat().st_size}"
            for f in files
        )
    else:
        text = name
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder, not installed
        return "unknown"
