"""What chapters say of a record in words alone is so in the record, and on the page that shows it."""

import re

import chapters
import torch

from storydiff_lite import experiments, world
from storydiff_lite.judge import FREE


def printed(chapter, cell):
    """What a cell of a chapter has printed."""
    (path,) = (p for p in chapters.find([]) if p.stem.startswith(chapter))
    (found,) = (c for c in chapters.read(path).cells if c.id == cell)
    return "".join(o.text for o in found.outputs if o.output_type == "stream")


def by_chance():
    """How often two panels that choose evenly agree, mean over the free attributes."""
    return sum(1 / len(world.ATTRIBUTES[name]) for name in FREE) / len(FREE)


def test_agreement_without_sharing_is_about_chance():  # 00, how to read the table, and takeaways
    assert [len(world.ATTRIBUTES[name]) for name in FREE] == [8, 8, 3, 8]
    _, low, high = experiments.load("consistency")["summary"]["rate 0"]["agreement"]
    assert low <= by_chance() <= high


def test_identity_without_pictures_is_about_chance():  # 03, takeaways
    _, low, high = experiments.load("identity")["summary"]["text only"]["agreement"]
    assert low <= by_chance() <= high


def test_four_pictures_give_more_defects_than_one_or_none():  # 03, the experiment
    record = experiments.load("identity")
    for fewer in ("text only", "1 picture"):
        _, _, high = experiments.change(record, "clean", fewer, "4 pictures")
        assert high < 0


def test_the_lora_helps():  # 03, the second table of what it does
    summary = experiments.load("lora")["summary"]
    intervals = sorted(s["agreement"][1:] for s in summary.values())
    assert len(intervals) == 2 and intervals[0][1] < intervals[1][0]


def test_stories_are_not_saved_by_comparing_each_with_itself():  # 05, solution of the plan
    rows = experiments.load("sharing")["rows"]
    one, other = (
        torch.tensor([row["agreement"] for row in rows[name]], dtype=torch.float64)
        for name in ("up blocks", "up blocks, one noise")
    )
    assert (other - one).var() >= one.var() + other.var()


def test_what_no_prompt_names_is_carried_across():  # 05, contradicting prompts
    summary = experiments.load("failures")["summary"]
    before, after = (summary[f"contradiction, rate {rate}"]["agreement.fur"] for rate in (0, 1))
    assert before[2] < after[1]


def test_guidance_shows_no_gain_for_the_short_prompts():  # 01, the experiment, its question and "Break it"
    said = re.findall(r"fidelity (\S+) \(95% interval \+- (\S+),", printed("01", "f8298ced"))
    intervals = [(float(m) - float(half), float(m) + float(half)) for m, half in said]
    assert len(intervals) == 4
    assert max(low for low, _ in intervals) <= min(high for _, high in intervals) + 0.01  # printed digits


def test_a_lost_eos_shows_no_change():  # 02, does it show in the picture
    low, high = re.search(
        r"^EOS lost .*change \S+ \((\S+) to (\S+)\)", printed("02", "2940196e"), re.M
    ).groups()
    assert float(low) <= 0 <= float(high)


def test_spoilt_pictures_mostly_keep_their_fidelity_and_are_not_clean():  # 01, a second judge
    rows = re.findall(r"^(\w[\w ]+?) +fidelity (\S+) +(.*)$", printed("01", "2bd9dff0"), re.M)
    (whole, spoilt) = rows[0], rows[1:]
    assert whole[0] == "whole" and whole[2] == "clean" and len(spoilt) == 5
    assert all(found != "clean" for *_, found in spoilt)
    assert sum(fidelity == whole[1] for _, fidelity, _ in spoilt) > len(spoilt) / 2
    assert re.search(r"double head.*\n.*\n +no accessory instead of 1", printed("01", "2bd9dff0"))
