"""What every training run needs: an optimizer, a schedule, an average of the weights, checkpoints, a log.

A run is a loop over ``Run.steps()``; it can be killed at any time and goes on from its last checkpoint.
Checkpoints are safetensors (nothing is ever unpickled) and are written whole or not at all.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import InitVar, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from .. import weights
from .processes import join


def orthogonalize(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to ``g`` [..., m, n]: a quintic Newton-Schulz iteration."""
    x = g.to(arithmetic(g.device))
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if flip else x).to(g.dtype)


class Optimizer:
    """Muon for matrices and convolution kernels inside the network, AdamW for everything else.

    Muon (Keller Jordan, 2024: momentum, then orthogonalized updates) reached the reconstruction of Adam in
    clearly fewer pictures on the autoencoder of this project; embeddings, norms, biases, LoRA matrices and
    the first and last layer stay with AdamW.

    Parameters
    ----------
    lr : float
        Step size of AdamW.  Both are multiplied by ``scale`` (0..1) given to `step`.
    muon_lr : float or None
        Step size of Muon; None: AdamW for everything.
    """

    def __init__(self, named, lr, muon_lr=0.02, decay=0.01):
        self.params = [(n, p) for n, p in named if p.requires_grad]
        edge = ("conv_in", "conv_out", "embed", "position", "logit_scale", "head", "lora")
        self.is_muon = {
            n: muon_lr is not None
            and (p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and not any(e in n for e in edge))
            for n, p in self.params
        }
        self.lr, self.muon_lr, self.decay = lr, muon_lr, decay
        self.count = 0
        self.state = {
            n: {"m": torch.zeros_like(p)} | ({} if self.is_muon[n] else {"v": torch.zeros_like(p)})
            for n, p in self.params
        }

    @torch.no_grad()
    def step(self, scale=1.0, clip=1.0):
        grads = [p.grad for _, p in self.params if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        # a tensor, never read here: to read it the processor would have to wait for the device
        shrink = (clip / (norm + 1e-8)).clamp(max=1.0) if clip else torch.ones_like(norm)
        self.count += 1
        groups = {}  # a GPU waits for small kernels: what has one shape is updated together
        for n, p in self.params:
            if p.grad is not None:
                kind = p.shape if self.is_muon[n] else p.ndim >= 2
                groups.setdefault((self.is_muon[n], kind), []).append((n, p))
        for (is_muon, kind), group in groups.items():
            names, params = zip(*group, strict=True)
            grads = torch._foreach_mul([p.grad for p in params], shrink)
            m = [self.state[n]["m"] for n in names]
            if is_muon:
                torch._foreach_mul_(m, 0.95)
                torch._foreach_add_(m, grads)
                ahead = torch.stack(torch._foreach_add(grads, m, alpha=0.95))
                u = orthogonalize(ahead.flatten(2))  # [matrices, rows, columns]
                size = max(1.0, u.shape[1] / u.shape[2]) ** 0.5 * self.muon_lr * scale
                torch._foreach_mul_(params, 1 - self.decay * size)
                torch._foreach_add_(params, list(u.view_as(ahead)), alpha=-size)
            else:
                v, early = [self.state[n]["v"] for n in names], self.count < 100
                torch._foreach_lerp_(m, grads, 0.1)
                torch._foreach_lerp_(v, torch._foreach_mul(grads, grads), 0.01 if early else 0.001)
                root = torch._foreach_sqrt(v)
                if early:
                    torch._foreach_div_(root, (1 - 0.99**self.count) ** 0.5)
                torch._foreach_add_(root, 1e-8)
                if kind:  # only matrices decay
                    torch._foreach_mul_(params, 1 - self.decay * self.lr * scale)
                step = -self.lr * scale / (1 - 0.9**self.count)
                torch._foreach_addcdiv_(params, m, root, step)
            for p in params:
                p.grad = None
        return norm


@dataclass(eq=False, repr=False)
class Run:
    """A training run of ``model`` that can be interrupted.

    Parameters
    ----------
    name : str
        File name of the checkpoint, in ``folder``.
    total : int
        Optimizer steps of the whole run.  A resumed run may be given another total.
    lr, muon_lr : float
        As of `Optimizer`.
    ema : float
        Decay of the running average of the weights that `averaged` returns (0: none).
    warmup, cooldown : int, float
        Steps of linear warm-up; fraction of the run, at its end, in which the step size falls linearly to 0.
    save_every : float
        Seconds between checkpoints.
    began : dict, optional
        What is known of the weights that the model began with, for its card.
    seconds : float, optional
        Wall time after which the run ends, its step size falling as it would over ``total`` steps: how far
        the run is, is then the larger of the two fractions.  The attribute says how many have passed.
    facts : dict, optional
        What else the card should say of this run (batch, pictures, ...).
    """

    name: str
    model: nn.Module
    total: int
    lr: float
    muon_lr: float | None = 0.02
    ema: InitVar[float] = 0.0
    warmup: int = 50
    cooldown: float = 0.4
    seed: int = 0
    folder: str | Path = "checkpoints"
    save_every: float = 120
    began: dict | None = None
    seconds: InitVar[float | None] = None
    facts: dict | None = None

    def __post_init__(self, ema, seconds):
        named = dict(self.model.named_parameters())
        self.facts = {"machine": machine()} | (self.facts or {})
        self.processes = join(next(iter(named.values())).device)
        if self.processes.count > 1:
            self.facts["processes"] = self.processes.count
        self.folder, self.path = Path(self.folder), checkpoint(self.folder, self.name)
        self.optimizer = Optimizer(named.items(), self.lr, self.muon_lr)
        self.ema_decay, self.ema = ema, {n: p.detach().clone() for n, p in named.items()} if ema else {}
        self.budget, self.seconds, self.done, self.log = seconds, 0.0, 0, []
        if self.path.exists():
            self._load()

    def scale(self, i):
        """Multiplier of the step size at step ``i``."""
        end = min(1 - i / self.total, 1 - self.spent()) / max(1 / self.total, self.cooldown)
        return max(0.0, min(1.0, (i + 1) / self.warmup, end))

    def spent(self):
        """How much of the wall time is used up, 0 to 1; 0 where there is no limit."""
        return self.seconds / self.budget if self.budget else 0.0

    def steps(self):
        """Yield step numbers from where the last checkpoint stopped; saves on the way and at the end."""
        last = time.time()
        how = {"desc": self.name, "mininterval": 10, "disable": self.processes.rank > 0}
        bar = tqdm(range(self.done, self.total), initial=self.done, total=self.total, **how)
        started, before, begun = time.time(), self.seconds, self.done
        for i in bar:
            torch.manual_seed(self.seed * 1_000_003 + i)  # a resumed run sees the same noise
            yield i
            self.seconds = before + time.time() - started
            if self.budget:
                self.seconds = self.processes.seconds(self.seconds)
            if self.spent() >= 1:
                break
            if time.time() - last > self.save_every:
                self.save()
                last = time.time()
        if self.done > begun:
            self.total = self.done  # it has ended, and does not go on when it is started again
            self.save()

    def update(self, loss, i, **numbers):
        """Backward, an optimizer step, a step of the average; logs ``numbers`` every 20 steps."""
        loss.backward()
        self.processes.average([p.grad for p in self.model.parameters() if p.grad is not None])
        norm = self.optimizer.step(self.scale(i))
        self.done = i + 1
        if self.ema:
            d = min(self.ema_decay, (1 + i) / (10 + i))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.ema.values()), [p.detach() for _, p in self.model.named_parameters()], 1 - d
                )
        if i % 20 == 0:
            self.log.append(
                {"step": i, "loss": round(self.processes.mean(loss), 5), "norm": round(float(norm), 3)}
                | {k: round(self.processes.mean(v), 5) for k, v in numbers.items()}
            )

    def averaged(self):
        """Copy the running average into the model and return the model."""
        if self.ema:
            self.model.load_state_dict(self.ema, strict=False)
        return self.model

    def save(self):
        if self.processes.rank > 0:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        tensors |= {f"opt.{n}.{k}": v for n, s in self.optimizer.state.items() for k, v in s.items()}
        tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        meta = {"done": self.done, "total": self.total, "seconds": self.seconds, "log": self.log}
        meta |= {"began": self.began, "facts": self.facts}
        weights.atomic_save(self.path, lambda to: save_file(tensors, to, {"run": json.dumps(meta)}))

    def _load(self):
        meta = progress(self.folder, self.name)
        with safe_open(self.path, "pt") as f:
            get = f.get_tensor
            self.model.load_state_dict({k[6:]: get(k) for k in f.keys() if k.startswith("model.")})
            for n in self.ema:
                self.ema[n].copy_(get(f"ema.{n}"))
            for n, s in self.optimizer.state.items():
                for k in s:
                    s[k].copy_(get(f"opt.{n}.{k}"))
        self.done, self.seconds, self.log = meta["done"], meta["seconds"], meta["log"]
        # where this run has nothing left to do, the facts are of the one that did its steps
        self.began, noted = meta.get("began"), meta.get("facts", {})
        self.facts = noted | self.facts if self.done < self.total else self.facts | noted
        self.optimizer.count = self.done


def checkpoint(folder, name) -> Path:
    """Where the checkpoint of a run lies."""
    return Path(folder) / f"{name}.safetensors"


def progress(folder, name) -> dict:
    """``done``, ``total``, ... of the run whose checkpoint has that name; empty where there is none."""
    if not (path := checkpoint(folder, name)).exists():
        return {}
    with safe_open(path, "pt") as f:
        return json.loads(f.metadata()["run"])


def averaged_weights(folder, name) -> dict[str, torch.Tensor]:
    """The state dict of the model whose checkpoint has that name: the average where the run keeps one."""
    found = load_file(checkpoint(folder, name))
    own = {k.removeprefix("model."): v for k, v in found.items() if k.startswith("model.")}
    return {k: found.get(f"ema.{k}", v) for k, v in own.items()}


def machine() -> str:
    """What this runs on, for a model card: no host name, no path."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def native_bfloat16(device):
    """Whether this device has instructions for bfloat16: GPUs, and some CPUs.

    Others emulate it and took twenty times as long as in float32.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.device(device).type != "cpu" or native


def arithmetic(device, dtype=None):
    """``dtype``, or what is fast on this device: bfloat16 where it has instructions for it, else float32."""
    return dtype or (torch.bfloat16 if native_bfloat16(device) else torch.float32)


def autocast(device, dtype=None):
    """Arithmetic of that `arithmetic`, with float32 weights."""
    kind = torch.device(device).type
    enabled = arithmetic(device, dtype) == torch.bfloat16
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)
