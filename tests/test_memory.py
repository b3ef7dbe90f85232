"""The meter of peak memory, against allocations whose size is known."""

import gc

import pytest
import torch

from storydiff_lite.memory import peak_memory, weight_bytes

MB = 250_000  # float32 numbers in a million bytes


def test_peak_is_what_was_alive_at_once():
    with peak_memory() as used:
        a = torch.zeros(3 * MB)
        del a
        b = torch.zeros(2 * MB)
        c = b + 1  # 2 more
        assert used.now == 4e6
        del b
    assert used.bytes == 4e6 and used.now == 2e6
    del c
    assert used.now == 2e6  # after the block nothing is counted


def test_views_and_expansions_cost_nothing_and_keep_their_storage():
    with peak_memory() as used:
        a = torch.zeros(MB)
        views = [a[10:], a.view(2, -1), a.expand(50, -1), a.detach(), a[:10, None].mT]
        assert used.bytes == 1e6
        del a
        assert used.now == 1e6
        del views
        assert used.now == 0
        torch.zeros(MB).expand(3, -1).contiguous()
    assert used.bytes == 4e6


def test_what_was_there_before_counts_only_when_it_goes():
    a, kept = torch.zeros(2 * MB), [torch.zeros(MB)]
    with peak_memory() as used:
        a.add_(1)
        b = a[5:]
        kept[0].mul_(2)
        assert used.bytes == 0
        del a, b
        assert used.now == -2e6
        c = torch.zeros(3 * MB)
    assert used.bytes == 1e6 == used.now
    del c


def test_tensors_that_no_operation_made():
    """From numpy, and from Python numbers: seen when an operation first reads them."""
    with peak_memory() as used:
        a = torch.tensor([0.0] * MB)
        b = torch.from_numpy(a.numpy().copy())
        b.sum()
    assert 2e6 <= used.bytes <= 2e6 + 100


def test_a_storage_that_grows():
    with peak_memory() as used:
        a = torch.empty(0)
        a.resize_(MB)
        assert used.now == 1e6
        a.resize_(2 * MB)
    assert used.bytes == 2e6


def test_symbolic_tensors_of_an_export_take_no_memory():
    """They live on while the exported program does, say that they are on the CPU, and have no size."""
    rows = torch.export.Dim("rows", min=1, max=8)
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(4, 3),), dynamic_shapes=[{0: rows}])
    symbolic = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.shape[1:] == (3,)]
    assert any(isinstance(x.untyped_storage().nbytes(), torch.SymInt) for x in symbolic)
    with peak_memory() as used:
        torch.zeros(MB)
    assert type(used.bytes) is int and used.bytes == 1e6
    assert type(used.now) is int and used.now == 0
    del program, symbolic


def test_layers_and_attention():
    """Through a module: input, hidden and output are alive at once; under no_grad the hidden one goes."""
    net = torch.nn.Sequential(torch.nn.Linear(10, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)).eval()
    x = torch.zeros(1000, 10)
    with torch.no_grad(), peak_memory() as used:
        y = net(x)
    assert used.now == y.nbytes == 40_000
    assert used.bytes == 2 * 400_000  # the hidden states before and after the ReLU
    with peak_memory() as used:
        z = net(x)
    assert used.now == 400_000 + z.nbytes  # kept for the backward pass
    q = torch.zeros(2, 4, 64, 8)
    with torch.no_grad(), peak_memory() as used:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert q.nbytes <= used.bytes < 1.2 * q.nbytes


def test_an_error_passes_and_ends_the_measurement():
    with pytest.raises(RuntimeError, match="stop"):
        with peak_memory() as used:
            a = torch.zeros(MB)
            raise RuntimeError("stop")
    assert used.bytes == 1e6
    b = a + 1
    assert used.now == 1e6 and b is not None


def test_two_measurements_in_turn_are_apart():
    for _ in range(2):
        with peak_memory() as used:
            torch.zeros(MB)
        assert used.bytes == 1e6 and used.now == 0
    gc.collect()
    assert used.now == 0


def test_weights_are_counted_once():
    net = torch.nn.Linear(10, 10, bias=False)
    twice = torch.nn.ModuleList([net, net])
    assert weight_bytes(net) == 400 == weight_bytes(twice) == weight_bytes(net, twice)
    norm = torch.nn.BatchNorm1d(5)  # weight, bias, mean, variance; a count of 8 bytes
    assert weight_bytes(net, norm) == 400 + 4 * 20 + 8


def test_shapes_without_numbers_need_what_numbers_would():
    """Layers that are only laid out, and the same ones filled."""
    with torch.device("meta"):
        laid_out = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU())
    filled = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU())
    peaks = []
    for net, device in ((laid_out, "meta"), (filled, "cpu")):
        x = torch.zeros(2, 3, 10, 10, device=device)
        with torch.no_grad(), peak_memory(device) as used:
            net(x)
        peaks.append(used.bytes)
    hidden = 2 * 8 * 8 * 8 * 4
    assert peaks[0] == pytest.approx(peaks[1], abs=200) and 2 * hidden <= peaks[1] <= 2 * hidden + 200
    assert weight_bytes(laid_out) == weight_bytes(filled)


def test_each_device_is_counted_alone():
    with peak_memory("cpu") as used:
        torch.zeros(MB, device="meta") + 1
    assert used.bytes == 0


def test_other_devices_are_told():
    with pytest.raises(ValueError, match="not on 'mps'"):
        with peak_memory("mps"):
            pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    torch.zeros(1, device="cuda")
    with peak_memory("cuda") as used:
        a = torch.zeros(8 * MB, device="cuda")
        del a
        b = torch.zeros(4 * MB, device="cuda")
    assert 8e6 <= used.bytes < 8e6 + 2**21 and 4e6 <= used.now < 4e6 + 2**21
    del b
