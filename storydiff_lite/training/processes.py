"""One training run on several processes: ``accelerate launch ... -m storydiff_lite.training unet``.

Every process draws the whole batch of a step with the same seeds, and computes its own rows of it;
gradients are averaged, so that all processes take the step that one process would have taken on the whole
batch. Process 0 keeps the checkpoints. A run may go on with another number of processes than it began with.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

import torch


class SingleProcess:
    """One process, as without a launcher: nothing is divided and nothing is sent."""

    count, rank = 1, 0

    def mine(self, n):
        """The rows of a batch of n that this process computes."""
        return slice(None)

    def noise(self, x, n):
        """Normal noise for this process's rows x of a batch of n."""
        return torch.randn_like(x)

    def average(self, grads):
        """Gradients averaged over all processes, in place."""

    def mean(self, x):
        """A number averaged over all processes."""
        return float(torch.as_tensor(x).detach())

    def first(self):
        """Within this block process 0 goes first: it draws and keeps what the others then find."""
        return nullcontext()

    def seconds(self, x):
        """The clock of process 0, which all go by: else one would stop and the others wait for it."""
        return x


class Several(SingleProcess):
    """Processes that were started by ``accelerate launch``.

    Parameters
    ----------
    device : str
        ``"cpu"``, or ``"cuda"``: then each process has a GPU of its own.
    """

    def __init__(self, device):
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=torch.device(device).type == "cpu")
        self.count, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = self.accelerator.device

    def mine(self, n):
        if n % self.count:
            raise ValueError(
                f"A step has {n} samples, which {self.count} processes cannot share evenly: choose "
                f"--batch so that a quarter of it is a multiple of {self.count}."
            )
        each = n // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def noise(self, x, n):
        return torch.randn((n, *x.shape[1:]), dtype=x.dtype, device=x.device)[self.mine(n)]

    def average(self, grads):
        flat = torch.cat([g.flatten() for g in grads])  # one message instead of hundreds
        flat = self.accelerator.reduce(flat, "mean")
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def mean(self, x):
        x = torch.as_tensor(x, dtype=torch.float32, device=self.device).detach().clone()
        return float(self.accelerator.reduce(x, "mean"))

    def first(self):
        return self.accelerator.main_process_first()

    def seconds(self, x):
        x = torch.tensor([x if self.rank == 0 else 0.0], dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(x, "sum"))


def join(device="cpu"):
    """`Several` in a process that was launched beside others, else `SingleProcess`."""
    return Several(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SingleProcess()
