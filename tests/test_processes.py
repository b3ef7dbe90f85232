"""One training run on two processes is the run that one process makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from storydiff_lite.training import __main__ as command
from storydiff_lite.training import processes
from storydiff_lite.training.common import Run

ROOT = Path(__file__).parent.parent

SCRIPT = '''
"""Tiny runs: train.py FOLDER STEPS. The autoencoder, and a U-Net on its latents."""
import json, sys, zlib
import torch
from storydiff_lite.training import common, unet, vae
from storydiff_lite.training.common import Run

torch.set_num_threads(1)
folder, steps = sys.argv[1], int(sys.argv[2])

class prompts:
    def ids(texts):
        first = torch.tensor([zlib.crc32(t.encode()) % 2**31 for t in texts])
        return first[:, None, None].expand(-1, 2, 77)
    def encode(ids):
        def one(seed):
            g = torch.Generator().manual_seed(seed)
            return torch.randn(77, 96, generator=g), torch.randn(64, generator=g)
        states, pooled = zip(*map(one, ids[:, 0, 0].tolist()))
        return torch.stack(states), torch.stack(pooled)

losses, update = [], Run.update
def logged(run, loss, i, **numbers):
    losses.append((run.name, i, run.processes.mean(loss)))
    update(run, loss, i, **numbers)
Run.update = logged

# two runs are compared: all is float32, also where there is bfloat16
common.native_bfloat16 = lambda device: False
kw = {"folder": folder}
auto, run = vae.train(steps, batch=4, pictures=10, **kw)
# the U-Net of a run that is resumed must see the latents of the first one
torch.manual_seed(5)
unet.train(vae.build(), prompts, steps, batch=8, samples=unet.Samples(10, 2), channels=(16, 32), **kw)
if run.processes.rank == 0:
    print("LOSSES", json.dumps(losses))
'''


def trained(script, folder, steps, launcher=()):
    """Losses by (run, step), and what lies in the checkpoints."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [*launcher, str(script), str(folder), str(steps)],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    assert len(told) == 1, "process 0 alone tells"
    losses = {(name, i): loss for name, i, loss in json.loads(told[0][7:])}
    kept = {}
    for name in ("vae", "unet"):
        with safe_open(folder / f"{name}.safetensors", "pt") as f:
            kept |= {f"{name}.{k}": f.get_tensor(k) for k in f.keys()}
            kept[f"{name} run"] = json.loads(f.metadata()["run"])
    return losses, kept


LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    one = trained(script, folder / "one", 6, [sys.executable])
    trained(script, folder / "two", 3, LAUNCH)
    two = trained(script, folder / "two", 6, LAUNCH)
    return one, two, folder


def test_two_processes_have_the_loss_curve_of_one_and_go_on_where_they_stopped(runs):
    (alone, _), (shared, _), _ = runs
    assert {i for _, i in shared} == {3, 4, 5}, "the first three steps came from the checkpoint"
    for step, loss in shared.items():
        assert loss == pytest.approx(alone[step], rel=2e-3), step
    assert len({alone["unet", i] for i in range(6)}) == 6


def test_two_processes_end_with_the_weights_of_one(runs):
    (_, alone), (_, shared), folder = runs
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        if name.endswith(" run"):
            assert value["done"] == shared[name]["done"] == 6
            assert shared[name]["facts"]["processes"] == 2 and "processes" not in value["facts"]
        else:
            # Muon's orthogonal steps enlarge differences in the last digits of a gradient
            far = (value - shared[name]).norm() / value.norm().clamp(min=1e-3)
            assert far < 0.02, (name, float(far))
    assert not list(folder.rglob("*.part"))


def test_alone_nothing_is_divided(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone, x = processes.join(), torch.randn(5, 3)
    assert alone.count == 1 and torch.equal(x[alone.mine(5)], x) and alone.seconds(2.5) == 2.5
    torch.manual_seed(0)
    a = alone.noise(x, 5)
    torch.manual_seed(0)
    assert torch.equal(a, torch.randn_like(x))


class Two(processes.Several):
    def __init__(self, rank):
        self.count, self.rank, self.device = 2, rank, "cpu"


def test_rows_and_noise_are_shared_out():
    rows = [list(range(8))[Two(r).mine(8)] for r in (0, 1)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7]]
    parts = []
    for rank in (0, 1):
        torch.manual_seed(0)
        parts.append(Two(rank).noise(torch.empty(2, 3), 4))
    torch.manual_seed(0)
    assert torch.equal(torch.cat(parts), torch.randn(4, 3))
    with pytest.raises(ValueError, match="7 samples, which 2 processes cannot share evenly.*--batch"):
        Two(0).mine(7)


def test_only_process_0_keeps_checkpoints(tmp_path, monkeypatch):
    run = Run("r", torch.nn.Linear(2, 2), 3, lr=1, folder=tmp_path)
    run.processes = Two(1)
    run.save()
    assert not list(tmp_path.iterdir())
    run.processes = processes.SingleProcess()
    run.save()
    assert (tmp_path / "r.safetensors").exists()


def test_parts_that_one_process_trains_say_so(monkeypatch, capsys):
    monkeypatch.setattr(command, "join", lambda device: Two(0))
    with pytest.raises(SystemExit):
        command.main(["clip", "--device", "cpu"])
    assert (
        "clip is trained by one process; several can share vae, decoder, upscale, unet"
        in capsys.readouterr().err
    )
