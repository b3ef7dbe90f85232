"""How many bytes of tensors a piece of code needs at once.

``with peak_memory("cpu") as used: pipe(story)``, and then ``used.bytes``. On a GPU the allocator counts. On a
CPU nobody does, so the meter looks at the tensors that every operation takes and returns, and at when the
storage behind them is freed.  It does the same on the device ``"meta"``, whose tensors have a shape and no
numbers: so the memory of a model can be worked out where it would not fit.
"""

import gc
import weakref
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Used:
    """What `peak_memory` measures, over what was alive at its start.

    Parameters
    ----------
    bytes : int
        The most that was alive at once.
    now : int
        What is alive now; below 0 when more was freed than made. After the ``with``: at its end.
    """

    def __init__(self):
        self.bytes = self.now = 0

    def add(self, more):
        """Bytes came, or (negative) went."""
        self.now += more
        self.bytes = max(self.bytes, self.now)

    def __repr__(self):
        return f"Used(bytes={self.bytes}, now={self.now})"


class _Watch(TorchDispatchMode):
    """Counts every storage once, however many tensors look at it, until it is freed."""

    def __init__(self, used, device):
        super().__init__()
        self.used, self.device = used, device
        self.known = {}  # address of a storage -> [weak reference, bytes]
        for x in gc.get_objects():
            if issubclass(type(x), torch.Tensor):  # isinstance would wake lazy modules
                self._note(x, old=True)

    def _note(self, x, old=False):
        if x.layout != torch.strided or x.device.type != self.device:
            return
        storage = x.untyped_storage()
        if storage.device.type != self.device:
            return  # torch.export leaves fake tensors behind: on "cpu" by name, symbolic, and with no memory
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known[key] = [weakref.ref(storage, lambda _: self._forget(key)), size if old else 0]
        self.used.add(size - self.known[key][1])  # 0 unless it is new, or has grown
        self.known[key][1] = size

    def _forget(self, key):
        self.used.add(-self.known.pop(key)[1])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, out)):
            if isinstance(x, torch.Tensor):
                self._note(x)
        return out


@contextmanager
def peak_memory(device="cpu"):
    """Measure the peak of the bytes that live tensors take.

    Parameters
    ----------
    device : str or torch.device
        ``"cpu"``, ``"meta"`` or a CUDA device.

    Yields
    ------
    Used
        ``bytes`` and ``now``: integers, over what was alive on this device at the start.

    Notes
    -----
    On a CPU and on ``"meta"``: tensors alone.  What an operation allocates and frees inside itself is not
    seen, nor are Python objects (such as finished PIL pictures).  The meter costs some time for each
    operation: measure seconds without it.  It may not be used inside itself.  On a GPU: what the caching
    allocator handed out, its rounding and the workspaces of kernels included; nothing else may use the device
    meanwhile.

    Raises
    ------
    ValueError
        Another kind of device.
    """
    device = torch.device(device)
    used = Used()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            yield used
        finally:
            torch.cuda.synchronize(device)
            used.bytes = torch.cuda.max_memory_allocated(device) - before
            used.now = torch.cuda.memory_allocated(device) - before
    elif device.type in ("cpu", "meta"):
        gc.collect()
        watch = _Watch(used, device.type)
        try:
            with watch:
                yield used
        finally:
            watch.known.clear()  # drops the weak references: later frees are not counted
    else:
        raise ValueError(f"Peak memory can be measured on 'cpu', 'meta' and 'cuda', not on {device.type!r}.")


def weight_bytes(*modules):
    """Bytes of the parameters and buffers of modules, each storage once."""
    tensors = [x for m in modules for x in (*m.parameters(), *m.buffers())]
    return sum({s._cdata: s.nbytes() for s in (x.untyped_storage() for x in tensors)}.values())
