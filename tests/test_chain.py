"""The chain runs what it needs in its order, goes on where it was, and says what failed."""

import json
import tarfile

import pytest

from storydiff_lite.experiments import EXPERIMENTS
from storydiff_lite.training import __main__ as command
from storydiff_lite.training import chain
from storydiff_lite.training.chain import STAGES, Chain, Stage, chosen, gather


class Process:
    """Ends when it was asked so many times."""

    def __init__(self, code=0, polls=1):
        self.code, self.left = code, polls

    def poll(self):
        self.left -= 1
        return None if self.left > 0 else self.code


def toy(*pairs):
    return [Stage(name, (name,), tuple(needs.split())) for name, needs in pairs]


DIAMOND = toy(("a", ""), ("b", "a"), ("c", "a"), ("d", "b c"))


def run(stages, folder, jobs=1, codes=None, polls=1):
    """Names in the order of their start, how many ran at most, and what was left."""
    started, running, most = [], set(), [0]

    def start(chain, stage, log):
        process = Process((codes or {}).get(stage.name, 0), polls)
        log.write(f"{stage.name} says why\n")
        started.append(stage.name)
        running.add(process)
        most[0] = max(most[0], sum(p.left > 0 for p in running))
        return process

    toy = type("Toy", (Chain,), {"start": start})
    left = toy(stages, folder, jobs=jobs).run(wait=0)
    return started, most[0], left


def test_what_is_needed_comes_first(tmp_path):
    assert run(DIAMOND, tmp_path) == (["a", "b", "c", "d"], 1, [])


def test_several_at_once_but_none_before_what_it_needs(tmp_path):
    started, most, left = run(DIAMOND, tmp_path, jobs=3, polls=4)
    assert started[0] == "a" and started[-1] == "d" and most == 2 and not left


def test_a_failure_stops_what_needs_it_and_the_same_command_goes_on(tmp_path, capsys):
    started, _, left = run(DIAMOND, tmp_path, codes={"b": 1})
    assert started == ["a", "b", "c"] and left == ["b", "d"]
    assert "b failed" in capsys.readouterr().out and (tmp_path / "b.log").read_text() == "b says why\n"
    assert json.loads((tmp_path / "chain.json").read_text())["done"].keys() == {"a", "c"}
    assert run(DIAMOND, tmp_path) == (["b", "d"], 1, [])


def test_begin_in_the_middle(tmp_path):
    assert [s.name for s in chosen(DIAMOND, "b")] == ["b", "d"]
    assert run(chosen(DIAMOND, "b"), tmp_path)[0] == ["b", "d"], "what comes before counts as done"
    with pytest.raises(ValueError, match="no stage 'x': choose from a, b, c, d"):
        chosen(DIAMOND, "x")


def test_stages_are_known_commands_in_their_order():
    names = [s.name for s in STAGES]
    assert len(set(names)) == len(names)
    for i, s in enumerate(STAGES):
        assert set(s.needs) <= set(names[:i]), f"{s.name} needs what comes later"
    assert {f"record {n}" for n in EXPERIMENTS} <= set(names)
    assert {s.command[1] for s in STAGES if s.command[0] == chain.TRAINING} >= {
        *command.PARTS,
        "video",
        "passages",
    }
    after = [s.name for s in chosen(STAGES, "unet")]
    assert "vae" not in after and "identity" in after and "record consistency" in after


def longest(stages):
    """The largest sum of shares along a way through the stages."""
    to = {}
    for s in stages:
        to[s.name] = s.share + max((to.get(n, 0) for n in s.needs), default=0)
    return max(to.values())


def test_shares_leave_time_for_the_records():
    assert longest(STAGES) <= 0.6


def test_budget_becomes_seconds():
    stage = next(s for s in STAGES if s.name == "identity")
    words = stage.arguments(780, "cuda", "checkpoints")
    assert words[words.index("--seconds") + 1] == "195" and "--seconds" not in stage.arguments(
        None, "cuda", "c"
    )
    alone = next(s for s in STAGES if s.name == "video").arguments(780, "cuda", "there")
    assert alone[alone.index("--begin") + 1] == "there/video-alike"


def test_what_was_made_lies_in_three_files(tmp_path, monkeypatch):
    for name in ("data", "results", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.log").write_text(name)
    monkeypatch.setattr(chain.weights, "DATA", tmp_path / "data")
    monkeypatch.setattr(chain, "RESULTS", tmp_path / "results")
    gather(tmp_path / "folder", tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"data.tar", "results.tar", "chain.tar"}
    with tarfile.open(tmp_path / "out" / "data.tar") as tar:
        assert "data/data.log" in tar.getnames()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "nothing"], "no stage 'nothing'"),
        (["--budget", "0"], "must be more than 0"),
        (["--jobs", "0"], "at least 1"),
    ],
)
def test_mistakes_are_said_before_anything_runs(arguments, words, capsys):
    with pytest.raises(SystemExit):
        command.main(["all", *arguments])
    assert words in capsys.readouterr().err


def test_list_says_what_would_be_run(capsys):
    command.main(["all", "--list", "--from", "unet", "--again", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split()[:4] == ["unet", "python", "-m", "storydiff_lite.training"] and "--again" in lines[0]
    )
