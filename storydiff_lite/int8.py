"""Weights in a byte each: how the two judges are stored, and the models of the page that draws."""

import torch


def compact(state):
    """Weights as they are stored: matrices and kernels as int8 with a scale for each row, the rest in half
    precision: half the bytes. The judges are kept so; what it costs stands on their cards.
    """
    out = {}
    for name, v in state.items():
        v = v.detach().cpu().float()
        if v.ndim > 1:
            scale = v.flatten(1).abs().amax(1).clamp(min=1e-8) / 127
            out[f"{name}.scale"] = scale
            v = (v / scale.view(-1, *[1] * (v.ndim - 1))).round().to(torch.int8)
        out[name] = v.contiguous() if v.dtype == torch.int8 else v.half().contiguous()
    return out


def expanded(stored):
    """What `compact` stored, as float32 weights."""
    out = {}
    for name, v in stored.items():
        if not name.endswith(".scale"):
            scale = stored.get(f"{name}.scale")
            out[name] = v.float() if scale is None else v.float() * scale.view(-1, *[1] * (v.ndim - 1))
    return out


def round_weights(module, least=4096):
    """Round a module's weights, in place, to what a byte each can hold: what the page that draws has.

    Matrices and kernels of ``least`` numbers or more, as `compact` does; the others to half precision. So the
    first and the last convolution of a U-Net, where rounding shows most and saves nothing, stay as they are.
    """
    state = module.state_dict()
    large = {k: v for k, v in state.items() if v.ndim > 1 and v.numel() >= least}
    rounded = {k: v.half().float() for k, v in state.items()} | expanded(compact(large))
    module.load_state_dict({k: v.to(state[k]) for k, v in rounded.items()})
