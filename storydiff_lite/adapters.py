"""Whose adapter is whose in a U-Net: an identity encoder's own LoRA beside those that users load.

The identity's LoRA is on in the steps that read an identity, and off in all others; what users load stays as
it is: on, off or fused.
"""

import json
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from .identity import IDEncoder

#: name under which the LoRA of an identity encoder is known to peft
LORA = "identity"
#: the same where it is on in all steps, as PhotoMaker's
EVERYWHERE = "photomaker"
#: file that says, beside a saved encoder, how it is used
ABOUT = "identity.json"


def own(unet):
    """Names of the adapters of this U-Net that belong to an identity encoder, and to nobody else."""
    return [
        n for n, config in getattr(unet, "peft_config", {}).items() if getattr(config, "_identity", False)
    ]


def _layers(unet):
    return [layer for layer in unet.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def others_kept(unet):
    """Within this block adapters come into a U-Net or leave it; after it the others are as they were: on, off
    or fused.  By itself peft switches them off, takes out what is fused, or switches on what it finds.
    """
    _release(unet)
    before = {}
    for layer in _layers(unet):
        before[layer] = list(layer.active_adapters), layer.disable_adapters, list(layer.merged_adapters)
        layer.merged_adapters = []  # peft would subtract it again
    try:
        yield
    finally:
        for layer in _layers(unet):
            active, disabled, merged = before.get(layer, ([], False, []))
            layer._active_adapter = [n for n in active if n in getattr(unet, "peft_config", {})]
            layer._disable_adapters = disabled
            layer.merged_adapters = [n for n in merged if n in layer.scaling]


def take_out(unet):
    """Delete an identity's own LoRA from a U-Net; what others loaded stays.

    Raises
    ------
    ValueError
        It is fused, or the U-Net has an adapter of somebody else under one of its names.
    """
    mine = own(unet)
    for name in (LORA, EVERYWHERE):
        if name in getattr(unet, "peft_config", {}) and name not in mine:
            raise ValueError(
                f"This U-Net has an adapter {name!r} that is not the identity encoder's own, which is called "
                "so: take it out (unet.delete_adapters) and load it under another name."
            )
    if any(set(layer.merged_adapters) & set(mine) for layer in _layers(unet)):
        raise ValueError(
            "The LoRA of the identity encoder that was loaded before is fused into the U-Net, and cannot be "
            "taken out: call unfuse_lora() first."
        )
    if mine:
        with others_kept(unet):
            unet.delete_adapters(mine)


def put_in(unet, state, name, alphas=None):
    """Load an identity's own LoRA, off or (`EVERYWHERE`) on; the other adapters stay as they are."""
    with others_kept(unet):
        unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas, adapter_name=name)
    if name not in getattr(unet, "peft_config", {}):
        return
    unet.peft_config[name]._identity = uuid4().hex  # known again in a copy of the U-Net
    if name == EVERYWHERE:
        for layer in _layers(unet):
            layer._active_adapter = [*layer.active_adapters, name]


def attach(folder, unet, lora=True):
    """Load an `IDEncoder` for this U-Net, and into the U-Net the LoRA that was trained with it.

    Parameters
    ----------
    folder : str or Path
        What ``IDEncoder.save_pretrained`` wrote; the LoRA lies in its folder ``lora``, as diffusers saves it.
    unet : UNet2DConditionModel
    lora : bool
        ``False`` leaves the U-Net without one.

    Returns
    -------
    IDEncoder
        In the U-Net's precision and on its device, for inference.

    Raises
    ------
    ValueError
        The encoder's tokens are not as wide as what the U-Net reads; the LoRA of another encoder that cannot
        be taken out (`take_out`).
    """
    encoder = IDEncoder.from_pretrained(folder, local_files_only=True, dtype=unet.dtype)
    encoder = encoder.eval().to(unet.device)
    width, wanted = encoder.fuse_module.layer_norm.normalized_shape[0], unet.config.cross_attention_dim
    if width != wanted:
        raise ValueError(
            f"The identity encoder makes tokens of {width} numbers and this U-Net reads {wanted}: they "
            "belong to different models."
        )
    take_out(unet)
    if lora and (Path(folder) / "lora").is_dir():
        name = "pytorch_lora_weights.safetensors"
        about = Path(folder) / ABOUT
        steps = json.loads(about.read_text())["lora_steps"] if about.exists() else "identity"
        state = load_file(Path(folder) / "lora" / name)
        put_in(unet, state, EVERYWHERE if steps == "all" else LORA)
    return encoder


def save(folder, encoder, unet, trigger_word):
    """Write an identity encoder and its LoRA where `attach` finds them.

    The LoRA is written at the strength that it has.
    """
    folder = Path(folder)
    encoder.save_pretrained(folder)
    mine, state = own(unet), {}
    for path, layer in unet.named_modules():
        if mine and isinstance(layer, BaseTunerLayer) and mine[0] in layer.scaling:
            down, up = layer.lora_A[mine[0]].weight, layer.lora_B[mine[0]].weight * layer.scaling[mine[0]]
            state |= {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}
    if state:
        (folder / "lora").mkdir(exist_ok=True)
        state = {n: t.detach().cpu().contiguous() for n, t in state.items()}
        save_file(state, folder / "lora" / "pytorch_lora_weights.safetensors", {"format": "pt"})
    steps = "all" if EVERYWHERE in mine else "identity"
    (folder / ABOUT).write_text(json.dumps({"trigger_word": trigger_word, "lora_steps": steps}) + "\n")


def mark(unet):
    """What tells an identity's own LoRA in this U-Net from every other, or None."""
    names = own(unet)
    return unet.peft_config[names[0]]._identity if names else None


@contextmanager
def own_strength_kept(unet):
    """Within this block others are fused; diffusers then scales all that are on, the identity's own too, and
    fuses what peft switched on by itself.
    """
    mine = own(unet)
    for layer in _layers(unet):
        layer._active_adapter = [n for n in layer.active_adapters if n != LORA or n not in mine]
    before = {layer: {n: layer.scaling[n] for n in mine if n in layer.scaling} for layer in _layers(unet)}
    yield
    for layer, scaling in before.items():
        layer.scaling.update({n: s for n, s in scaling.items() if n not in layer.merged_adapters})


def check_saved(*models):
    """Raise ValueError where saving these models would lose an adapter, or save the identity's own twice."""
    for model in models:
        mine = own(model)
        for layer in _layers(model):
            loose = [n for n in layer.scaling if n not in mine and n not in layer.merged_adapters]
            if loose:
                raise ValueError(
                    f"The LoRA {loose[0]!r} is loaded, and a saved pipeline has no place for it: "
                    "unload_lora_weights() before saving, or fuse_lora() to save the weights that it makes."
                )
            if set(mine) & set(layer.merged_adapters):
                raise ValueError(
                    "The LoRA of the identity encoder is fused, and would be saved twice, in the U-Net and "
                    "beside it: call unfuse_lora() before saving."
                )


@contextmanager
def without_adapters(*models):
    """Within this block models are as if no adapter had ever been put in (but what is fused stays in): so
    they can be saved and read again.
    """
    places = []
    for model in models:
        for module in list(model.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, BaseTunerLayer):
                    places.append((module, name, layer))
    try:
        for module, name, layer in places:
            setattr(module, name, layer.base_layer)
        yield
    finally:
        for module, name, layer in places:
            setattr(module, name, layer)


def _switch(unet, on):
    """Switch the identity's own LoRAs, whatever the others are: they stay on, off or fused as they were.

    What a layer was before is kept in the layer until `_release`.
    """
    _release(unet)
    mine = own(unet)
    wanted = [n for n in mine if n == EVERYWHERE or on]
    for layer in _layers(unet) if mine else ():
        if not any(n in layer.scaling for n in mine):
            continue
        active, disabled, merged = list(layer.active_adapters), layer.disable_adapters, layer.merged_adapters
        new = [n for n in wanted if n in layer.scaling and n not in merged]
        theirs = [] if disabled or merged else [n for n in active if n not in mine]
        if set(active) == set(theirs + new) and not (disabled or merged):
            continue
        layer.before = active, disabled, merged
        layer._active_adapter = theirs + new
        if new:
            layer._disable_adapters = False
            layer.merged_adapters = []  # its weights are in: beside them peft would pass over ours


def _release(unet):
    """Leave all adapters as `_switch` found them."""
    for layer in _layers(unet):
        if getattr(layer, "before", None) is not None:
            layer._active_adapter, layer._disable_adapters, layer.merged_adapters = layer.before
            layer.before = None


class use_lora:
    """Switch the identity's LoRA on or off at once; as a context manager, all adapters are at its end as they
    were at its beginning.

    Other adapters stay as they are: on, off (``disable_lora``) or fused.  A LoRA that is on in all steps
    (`EVERYWHERE`) is not switched off.  A U-Net without such a LoRA is left alone.
    """

    def __init__(self, unet, on):
        self.unet = unet
        _switch(unet, on)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _release(self.unet)
