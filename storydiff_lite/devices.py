"""Which devices there are, by torch's names."""

import torch


def devices():
    """Names of the devices that are there: ``cpu``, ``cuda``, ``cuda:0``, ..."""
    found = ["cpu"]
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [kind, *(f"{kind}:{i}" for i in range(module.device_count()))]
    return found + ["mps", "mps:0"] * torch.backends.mps.is_available()


def check_device(device):
    """Raise ValueError unless there is such a device."""
    try:
        found = str(torch.device(device))
    except (RuntimeError, TypeError, ValueError):
        found = ""
    there = devices()
    if found in there or found == "cpu:0":
        return
    why = " (no CUDA GPU was found)" if "cuda" in str(device) and "cuda" not in there else ""
    raise ValueError(
        f"There is no device {str(device)!r}, there are {', '.join(there)}{why}. Give one of them, or leave "
        "the device out (--device on the command line)."
    )
