"""The attention benchmark: its forms compute the same, its formulas count what is done and what is held."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from storydiff_lite.memory import peak_memory

FILE = Path(__file__).parent.parent / "benchmarks" / "bench_attention.py"
spec = importlib.util.spec_from_file_location("bench_attention", FILE)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

SIZES = [(5, 8, 12, 3, 0.5), (3, 10, 8, 2, 0.3), (2, 6, 4, 1, 1.0)]


def forms(size, dtype=torch.float64):
    panels, tokens, width, heads, rate = size
    return bench.forms(panels, tokens, width, heads, rate, "cpu", dtype)


@pytest.mark.parametrize("size", SIZES)
def test_ours_equals_the_mask_form_and_plain_does_not(size):
    runs, mask = forms(size)
    panels, tokens, width, _, rate = size
    ours, masked, plain = (runs[name]() for name in ("ours", "mask", "plain"))
    assert ours.shape == (2 * panels, tokens, width)
    torch.testing.assert_close(ours, masked, atol=1e-10, rtol=0)
    for name in ("ring", "float64"):
        torch.testing.assert_close(runs[name](), masked, atol=1e-10, rtol=0)
    assert not torch.allclose(ours, plain, atol=1e-3)
    assert mask.shape == (panels * tokens, panels * tokens)
    assert (mask.sum(1) == bench.reads("ours", panels, tokens, rate)).all()


def test_mask_shows_the_own_tokens_and_the_picks():
    mask = bench.visible(torch.tensor([[1], [0], [2]]), 3)
    rows = ["111100001", "010111001", "010100111"]
    assert ["".join(map(str, row.int().tolist())) for row in mask[::3]] == rows
    assert torch.equal(mask[::3], mask[1::3]) and torch.equal(mask[::3], mask[2::3])


@pytest.mark.parametrize("form", bench.FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_operations_are_those_that_pytorch_counts(form, size):
    runs, _ = forms(size, torch.float32)
    panels, tokens, width, _, rate = size
    # the counter does not know the fused kernel of a CPU: it counts the products of the plain one
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as n,
    ):
        runs[form]()
    assert n.get_total_flops() == sum(bench.flops(form, panels, tokens, width, rate))


def test_the_floor_is_one_plus_rate_times_others():
    for panels, rate in ((5, 0.5), (4, 0.25), (1, 0.5)):
        ours, plain = (bench.flops(form, panels, 64, 32, rate)[0] for form in ("ours", "plain"))
        assert ours / plain == pytest.approx(1 + rate * (panels - 1))


@pytest.mark.parametrize("form", (*bench.FORMS, "ring"))
@pytest.mark.parametrize("size", [(5, 256, 32, 2, 0.5), (3, 200, 64, 2, 1.0)])
def test_bytes_by_shapes_are_those_that_are_held(form, size):
    runs, mask = forms(size, torch.float32)
    panels, tokens, width, _, rate = size
    with torch.no_grad(), peak_memory("cpu") as used:
        runs[form]()
    held = used.bytes + (mask.nbytes if form == "mask" else 0)
    assert held == pytest.approx(bench.peak_bytes(form, panels, tokens, width, rate, 4), rel=0.1)


def test_ours_needs_little_more_than_plain():
    """At the size of the targets, by the shapes: less than a tenth of what the mask form adds."""
    plain, ours, mask = (bench.peak_bytes(form, 5, 4096, 640, 0.5, 4) for form in bench.FORMS)
    assert ours - plain < 0.1 * (mask - plain)


def test_errors_are_those_of_rounding():
    rows = bench.measure(3, 16, 12, 3, 0.5, 1, "cpu", torch.bfloat16, ("plain", "ours", "ring"))
    assert [r["form"] for r in rows] == ["plain", "ours", "ring"] and rows[0]["error"] is None
    assert all(1e-5 < r["error"] < 1e-2 for r in rows[1:]) and "to_mask" not in rows[1]


def test_targets_are_missed_where_the_numbers_are_too_large():
    def rows(ratio, to_mask, extra):
        ours = {"form": "ours", "ratio": ratio, "to_mask": to_mask, "extra_bytes": extra, "floor": 3.0}
        return [ours, {"form": "mask", "extra_bytes": 100}]

    assert [met for *_, met in bench.targets(rows(3.4, 0.6, 10)).values()] == [True, True, True]
    assert [met for *_, met in bench.targets(rows(3.5, 0.61, 11)).values()] == [False, False, False]


def test_the_record_holds_both_sizes_and_was_counted_with_these_formulas():
    record = json.loads(bench.RESULT.read_text())
    assert {(r["tokens"], r["form"]) for r in record["rows"]} == {
        (n, form) for n in (1024, 4096) for form in bench.FORMS
    }
    for r in record["rows"]:
        size = record["panels"], r["tokens"], record["width"], record["rate"]
        assert (r["attention_flops"], r["projection_flops"]) == bench.flops(r["form"], *size)
        assert r["peak_bytes"] == pytest.approx(r["peak_bytes_by_shapes"], rel=0.1)
        assert r["difference_to_mask"] < 1e-4


# ------------------------------------------------------------------------------------------ picks
@pytest.fixture(scope="module")
def picks():
    import sys

    sys.modules.setdefault("bench_attention", bench)
    spec = importlib.util.spec_from_file_location("bench_picks", FILE.with_name("bench_picks.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_sizes_of_the_picks_are_sdxls_layers_of_the_up_blocks(picks):
    from diffusers import UNet2DConditionModel

    from storydiff_lite.neighbours import watched_layers
    from storydiff_lite.schedule import self_attention_layers
    from storydiff_lite.sdxl import shapes

    with torch.device("meta"):
        unet = UNet2DConditionModel(**shapes.UNET)
    names, watched = self_attention_layers(unet, "up"), watched_layers(unet)
    for size, block in zip(picks.SDXL, ("up_blocks.0.", "up_blocks.1."), strict=True):
        here = [n for n in names if n.startswith(block)]
        assert size.layers == len(here)
        assert size.watched == sum(n.startswith(block) for n in watched)
        attn = unet.get_submodule(here[0].removesuffix(".processor"))
        assert (size.width, size.heads) == (attn.to_q.in_features, attn.heads)
        assert size.tokens == (shapes.UNET["sample_size"] // (4 if block == "up_blocks.0." else 2)) ** 2


def test_subject_picks_of_the_bench_lie_in_its_subject_and_cost_as_many_tokens(picks):
    plan = picks.subject_plan(3, 0.1)
    inside, read = plan.subject(1024), plan.picks("layer", 1024)
    assert 0.1 < inside.float().mean() < 0.2 and read.shape == (1, 3, round(0.1 * 1024))
    assert inside.gather(2, read).all()


def test_forms_of_the_picks(picks):
    size = picks.Size(64, 32, 2, 30, 10)
    with torch.no_grad():
        got = {n: run() for n, run in picks.forms(size, 3, 0.25, 2, "cpu", torch.float32).items()}
        everything = picks.forms(size, 3, 1.0, 2, "cpu", torch.float32)["subject"]()
    assert torch.allclose(everything, got["rate 1"], atol=1e-6)
    assert got["looking"].shape == (3, picks.GRID**2)
    shown = [got[n] for n in picks.FORMS]
    assert not any(torch.allclose(a, b, atol=1e-6) for a, b in zip(shown, shown[1:], strict=False))


def test_what_the_whole_of_the_layers_costs(picks):
    rows = [
        {"form": f, "seconds": s, "flops": 10, "peak_bytes": s, "layers": n, "watched": w}
        for n, w in ((3, 2), (1, 0))
        for f, s in (("plain", 1), ("rate 1", 8), ("random", 2), ("subject", 3))
    ]
    rows.append({"form": "looking", "seconds": 5, "watched": 2})
    total = picks.whole(rows)
    assert {n: r["seconds"] for n, r in total.items()} == {
        "plain": 4,
        "rate 1": 32,
        "random": 8,
        "subject": 22,
    }
    assert {r["flops"] for r in total.values()} == {40} and total["rate 1"]["peak_bytes"] == 8


def test_the_bench_of_picks_runs_and_keeps_what_it_measured(picks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(picks, "RESULT", tmp_path / "bench_picks.json")
    monkeypatch.setattr(picks, "SDXL", [picks.Size(64, 32, 2, 30, 10), picks.Size(256, 16, 2, 6)])
    picks.main(["--rounds", "1", "--device", "cpu", "--save"])
    record = json.loads((tmp_path / "bench_picks.json").read_text())
    assert [r["form"] for r in record["rows"]] == [*picks.FORMS, "looking", *picks.FORMS]
    plain, full, random, subject = record["rows"][:4]
    assert plain["flops"] < random["flops"] == subject["flops"] < full["flops"]
    assert (
        random["peak_bytes"] < full["peak_bytes"]
        and "self-attention of the up-blocks" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        picks.main(["--tiny", "--save"])
