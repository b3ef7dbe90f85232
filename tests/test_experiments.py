"""The records are those of the weights that are here, and their summaries follow from their rows.

That they are those of the code, `test_golden.py` asks.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from storydiff_lite import experiments, weights, world

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing"], "invalid choice"),
        (["consistency", "--stories", "1"], "an interval needs at least 2"),
        (["consistency", "--device", "gpu"], "There is no device 'gpu', there are cpu"),
    ],
)
def test_command_line_mistakes(arguments, words, capsys):
    from storydiff_lite.experiments.__main__ import main

    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err


def test_stories_leave_identity_free_and_repeat():
    for i in range(12):
        panels = experiments.story(i)
        assert panels == experiments.story(i)
        named = [world.mentioned(p) for p in panels]
        assert all(set(n) == {"species", "action", "scene"} for n in named)
        assert len({n["species"] for n in named}) == 1
        assert len({n["scene"] for n in named}) == len(panels) == len({n["action"] for n in named})


def test_interval():
    mean, low, high = experiments.mean_and_interval([0.0, 1.0] * 50)
    assert mean == 0.5 and high - mean == pytest.approx(1.96 * (25 / 99) ** 0.5 / 10)
    assert mean - low == pytest.approx(high - mean)


def test_expected_of_as_many_stories_is_the_interval_and_of_fewer_wider():
    record = {"rows": {"rate 1": [{"clean": v} for v in [0.0, 1.0] * 50]}}
    assert experiments.expected(record, "rate 1", 100, "clean") == pytest.approx(
        experiments.mean_and_interval([0.0, 1.0] * 50)[1:]
    )
    low, high = experiments.expected(record, "rate 1", 4, "clean")
    assert (low + high) / 2 == pytest.approx(0.5) and high == pytest.approx(0.5 + 0.98 * (25 / 99) ** 0.5)


def test_a_quote_says_mean_interval_and_how_many():
    record = {"stories": 60, "summary": {"rate 1": {"agreement": [0.881, 0.853, 0.908]}}}
    said = "In the record, mean of 60: agreement 0.88 (95% interval 0.85 to 0.91)."
    assert experiments.quote(record, "rate 1") == said
    assert experiments.quote(record, "rate 1", called="identity") == said.replace("agreement", "identity")


@pytest.mark.parametrize(("setting", "kind"), [("rate 2", "agreement"), ("rate 1", "clean")])
def test_a_quote_of_what_is_not_there_names_what_is(setting, kind):
    record = {"stories": 60, "summary": {"rate 1": {"agreement": [0.881, 0.853, 0.908]}}}
    with pytest.raises(KeyError, match="It has: (rate 1|agreement)"):
        experiments.quote(record, setting, kind)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_record_is_fresh(name):
    what = experiments.EXPERIMENTS[name]
    if not what.earlier:
        assert not what.changed(experiments.load(name)), (
            f"book/results/{name}.json: run `make experiments ARGS={name}`, commit it."
        )


@pytest.mark.parametrize(("name", "chapter"), [("lora", "03"), ("repeats", "05"), ("video", "09")])
def test_a_chapter_says_which_record_measured_earlier_weights(name, chapter):
    (file,) = NOTEBOOKS.glob(f"{chapter}-*.ipynb")
    code = "".join(line for cell in json.loads(file.read_text())["cells"] for line in cell["source"])
    what = experiments.EXPERIMENTS[name]
    assert what.earlier and what.opened is None and what.left_out, "else it could be measured anew"
    assert re.search(rf"EXPERIMENTS\[.{name}.\]\.changed\(", code)
    record = experiments.load(name)
    record["weights"]["micro/unet"] = "0"
    assert "earlier weights of" in what.changed(record) and "micro/unet" in what.changed(record)


def test_only_what_cannot_be_measured_from_a_clone_may_be_of_earlier_weights():
    earlier = [name for name, what in experiments.EXPERIMENTS.items() if what.earlier]
    assert earlier == ["lora", "repeats", "video"]


#: a record holds no fewer stories
LEAST = {"consistency": 60, "identity": 48, "lora": 100, "sharing": 16, "failures": 12, "comparison": 16}
LEAST |= {"long_stories": 4, "repeats": 20, "motion": 350, "spaces": 84, "video": 200, "passages": 15}
LEAST |= {"cast": 16, "regions": 40, "together": 20, "defaults": 30, "neighbours": 2}


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_summaries_follow_from_the_rows(name):
    """Stories are the sample: one that was told under several seeds counts once."""
    record, what = experiments.load(name), experiments.EXPERIMENTS[name]
    n, seeds = record["stories"], 3 if name == "repeats" else 1
    # the neighbours' may hold more or fewer than a whole run; their chapter says how many
    assert n >= LEAST[name] and (n == what.stories or name == "neighbours")
    assert set(record["rows"]) == set(record["settings"]) == set(record["summary"])
    for setting, rows in record["rows"].items():
        n = record.get("numbers", {}).get(record["settings"][setting].get("source", name), record["stories"])
        first = int(record["seeds"].split("..")[0]) if seeds == 1 else 0
        # all stories under the first seed, then under the next
        several = [100 * k + i for k in range(seeds) for i in range(n)]
        assert [r["seed"] for r in rows] == [first + i for i in several]
        assert all(r.keys() - {"seed"} == set(what.kinds) for r in rows)
        found = {k: v for k, v in record["summary"][setting].items() if k != "seconds"}
        measured = {k for k in what.kinds if any(r[k] is not None for r in rows)}
        assert {k for k in found if "." not in k} == measured
        for kind in measured:
            told = [[r[kind] for r in rows[i::n] if r[kind] is not None] for i in range(n)]
            again = experiments.mean_and_interval([sum(t) / len(t) for t in told if t])
            assert found[kind] == pytest.approx(again, abs=2e-4), (setting, kind)


def test_a_change_is_counted_story_by_story():
    one, other = ([{"x": x} for x in values] for values in ((1, None, 3), (2, None, 4)))
    record = {"rows": {"a": one, "b": other}}
    assert experiments.change(record, "x", "a", "b") == (1, 1, 1)


# ------------------------------------------------------------------------------------------ long stories
def test_long_stories_repeat_and_leave_identity_free():
    for i in range(8):
        panels = experiments.long_stories.long_story(i)
        assert panels == experiments.long_stories.long_story(i) and len(set(panels)) == len(panels) == 12
        named = [world.mentioned(p) for p in panels]
        assert all(set(n) == {"species", "action", "scene"} for n in named)
        assert {n["species"] for n in named} == {world.SPECIES[i % len(world.SPECIES)]}
    assert len(set(experiments.long_stories.long_story(0, 100))) == len(world.ACTIONS) * len(world.SCENES)


def test_agreement_by_distance():
    """Panels of six in which the character changes after the third: pairs on one side agree."""
    from storydiff_lite.judge import FREE

    names = [dict.fromkeys(FREE, "a" if i < 3 else "b") for i in range(6)]
    found = {k: v["mean"] for k, v in experiments.long_stories.by_distance(names).items()}
    assert found == pytest.approx(
        {"apart 1": 0.8, "apart 2": 0.5, "apart 3": 0, "apart 4": 0, "apart 5": 0}
        | {"within": 6 / 12, "beyond": 0, "later": 1},
        abs=1e-4,
    )


def test_hundred_panels_need_the_memory_of_a_window_and_time_is_linear():
    record = experiments.load("long_stories")
    cost = record["cost"]
    for mode in ("passes", "bank"):
        first, last = cost[mode][0], cost[mode][-1]
        assert (first["panels"], last["panels"]) == (record["window"], 100)
        assert last["bytes"] + cost["weights"] <= 1.05 * (first["bytes"] + cost["weights"])
        # a panel more takes as long among the first as among the last
        some = [c for c in cost[mode] if c["panels"] >= 16]
        slopes = [(b["seconds"] - a["seconds"]) / (b["panels"] - a["panels"]) for a, b in pairwise(some)]
        assert max(slopes) < 1.5 * min(slopes)
    # what grows: where a panel is, where it goes next, and two latents that UniPC remembers
    latent, more = 4 * 16 * 16 * 4, last["panels"] - first["panels"]
    assert cost["passes"][-1]["bytes"] - cost["passes"][0]["bytes"] <= 4.1 * latent * more
    assert cost["attention"][-1]["bytes"] > 10 * cost["attention"][0]["bytes"]


def test_missing_record_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments.records, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m storydiff_lite.experiments consistency"):
        experiments.load("consistency")


def test_fingerprint_follows_the_weights_that_are_measured(monkeypatch, tmp_path):
    before = {
        name: experiments.EXPERIMENTS[name].fingerprint()["weights"] for name in ("consistency", "motion")
    }
    manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
    unet = next(k for k in manifest if k.startswith("micro/unet/"))
    (tmp_path / weights.MANIFEST).write_text(json.dumps(manifest | {unet: "0" * 64}))
    monkeypatch.setattr(weights, "DATA", tmp_path)
    after = experiments.EXPERIMENTS["consistency"].fingerprint()["weights"]
    assert [k for k in after if after[k] != before["consistency"][k]] == ["micro/unet"]
    assert experiments.EXPERIMENTS["motion"].fingerprint()["weights"] == before["motion"], "it draws nothing"


def test_fingerprint_of_nothing_is_a_mistake():
    manifest = {"micro/unet/config.json": "0", "micro/unet2/config.json": "1"}
    digest = experiments.records.digest
    assert digest(manifest, "micro/unet") == digest(manifest | {"micro/unet2/config.json": "2"}, "micro/unet")
    with pytest.raises(ValueError, match="No shipped weights lie under 'micro/un'"):
        digest(manifest, "micro/un")


# ------------------------------------------------------------------------------------------ identity
def test_people_were_never_trained_on():
    albums = experiments.people(12)
    assert len(albums) == 12 and albums == experiments.people(12)
    for album in albums:
        assert len(album) == 5 and len({p.actors[0].character for p in album}) == 1
        assert world.withheld(album[0].actors[0].character)
        assert len({p.scene for p in album}) == 5


def test_identity_rows_compare_with_the_right_character():
    """A pipeline that draws what it was shown: agreement 1; of two characters, one each."""
    albums, asked = experiments.people(6), []

    class Copies:
        def tell_many(self, stories, seeds, batch_size, id_images, consistency, output_type, which=0):
            asked.append((stories, id_images))
            draw = [images[which] if images else world.render(albums[0][0]) for images in id_images]
            return [type("Story", (), {"images": [d]}) for d in draw]

    from storydiff_lite.judge import StoryJudge

    judge = StoryJudge.load()
    rows = experiments.measure_identity(Copies(), judge, albums, 4)
    assert sum(r["agreement"]["mean"] for r in rows) / 6 > 0.95
    assert all(len(images) == 4 for images in asked[0][1]) and " img " in asked[0][0][0][0]
    rows = experiments.measure_identity(Copies(), judge, albums, 4, others=2, which=3)
    assert sum(r["other"]["mean"] for r in rows) > 5.7 > 4 > sum(r["agreement"]["mean"] for r in rows)
    rows = experiments.measure_identity(Copies(), judge, albums, 4, others=4)
    assert sum(r["agreement"]["mean"] for r in rows) > 5.7
    experiments.measure_identity(Copies(), judge, albums, 0)
    assert "img" not in asked[-1][0][0][0] and asked[-1][1] == [None] * 6


# ------------------------------------------------------------------------------------------ resume
def test_interrupted_sweep_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments.records, "RESULTS", tmp_path)
    asked, header = [], experiments.records.header("toy", 2, 1) | {"weights": {"judge": "c"}}

    def rows_of(setting):
        asked.append(setting["n"])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [{"seed": 0, "agreement": {"mean": 1.0}, "clean": {"mean": 0.5}}]

    def sweep(settings=None, **more):
        settings = settings or {"one": {"n": 1}, "two": {"n": 2}}
        return experiments.records.sweep(header | more, settings, rows_of, ("agreement", "clean"))

    with pytest.raises(KeyboardInterrupt):
        sweep()
    record = sweep()
    assert asked == [1, 2, 2] and set(record["rows"]) == {"one", "two"}
    assert record["rows"]["one"] == [{"seed": 0, "agreement": 1.0, "clean": 0.5}], "any kind of number"
    sweep(weights={"judge": "d"})
    assert asked == [1, 2, 2, 1, 2], "other weights: everything anew"
    sweep({"one": {"n": 3}}, weights={"judge": "d"})
    assert asked == [1, 2, 2, 1, 2, 3], "other settings, too"
    experiments.records.save("toy", record)
    assert json.loads((tmp_path / "toy.json").read_text())["rows"] == record["rows"]
    sweep()
    assert asked == [1, 2, 2, 1, 2, 3, 1, 2], "what was saved is not gone on with"
