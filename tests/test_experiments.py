"""The records are those of the code and the weights that are here, and their summaries follow from their
rows.
"""

import json
from itertools import pairwise

import pytest

from storydiff_lite import experiments, weights, world


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


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_record_is_fresh(name):
    record = experiments.load(name)
    now = experiments.fingerprint(name)
    for part in now:
        assert record[part] == now[part], (
            f"book/results/{name}.json measured other {part} than these: run `make experiments`, commit it."
        )


#: stories, and seeds of each, of the records that do not hold a hundred stories once
SIZES = {"sharing": (20, 3), "failures": (20, 3), "repeats": (20, 3), "long_stories": (8, 1)}
#: records of other kinds, each tested in the file of its mechanism
OWN_TESTS = ("video", "cast", "motion", "passages")


@pytest.mark.parametrize("name", [n for n in experiments.EXPERIMENTS if n not in OWN_TESTS])
def test_summaries_follow_from_the_rows(name):
    """Stories are the sample: one that was told under several seeds counts once."""
    record, (stories, seeds) = experiments.load(name), SIZES.get(name, (100, 1))
    assert record["stories"] == experiments.EXPERIMENTS[name].stories >= stories
    assert set(record["rows"]) == set(record["settings"]) == set(record["summary"])
    for setting, rows in record["rows"].items():
        n = record["stories"]
        assert (
            len(rows) == n * seeds == len({r["seed"] for r in rows})
        )  # the stories under the first seed first
        kinds = rows[0].keys() - {"seed"}
        assert {"agreement", "fidelity"} <= kinds
        for kind in kinds:
            means = [sum(r[kind] for r in rows[i::n]) / seeds for i in range(n)]
            again = experiments.mean_and_interval(means)
            assert record["summary"][setting][kind] == pytest.approx(again, abs=2e-4), (setting, kind)


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
    assert cost["passes"][-1]["bytes"] <= 1.05 * cost["passes"][0]["bytes"]
    assert cost["attention"][-1]["bytes"] > 10 * cost["attention"][0]["bytes"]


def test_missing_record_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments.records, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m storydiff_lite.experiments consistency"):
        experiments.load("consistency")


def test_fingerprint_follows_the_weights(monkeypatch, tmp_path):
    before = experiments.fingerprint()
    manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
    first = next(k for k in manifest if k.startswith("micro/"))
    (tmp_path / weights.MANIFEST).write_text(json.dumps(manifest | {first: "0" * 64}))
    monkeypatch.setattr(weights, "DATA", tmp_path)
    after = experiments.fingerprint()
    assert after["weights"] != before["weights"] and after["code"] == before["code"]


# ------------------------------------------------------------------------------------------ identity
def test_people_were_never_trained_on():
    from storydiff_lite.training.identity import withheld

    albums = experiments.people(12)
    assert len(albums) == 12 and albums == experiments.people(12)
    for album in albums:
        assert len(album) == 5 and len({p.actors[0].character for p in album}) == 1
        assert withheld(album[0].actors[0].character)
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


# ------------------------------------------------------------------------------------------ verify, resume
def toy_record(value, code="new", weights_="w"):
    """A record of two stories under two settings, and the experiment that would make it."""

    def run(stories, device):
        record = experiments.records.header("toy", stories, 1) | what.fingerprint()
        rows = [{"seed": 100 * k + i, "agreement": {"mean": value}} for k in (0, 1) for i in range(stories)]
        return experiments.records.sweep(record, {"a": {}, "b": {}}, lambda s: rows, ("agreement",))

    what = experiments.records.Experiment(run, (), (), ())
    object.__setattr__(what, "fingerprint", lambda: {"code": code, "weights": weights_})
    return what


def test_record_stands_when_a_part_comes_out_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments.records, "RESULTS", tmp_path)
    experiments.records.save("toy", toy_record(0.5, "old").run(4, "cpu"))
    record = experiments.records.verify("toy", toy_record(0.5, "new"), 2)
    assert record["code"] == "new" and record["stories"] == 4, "all of the record stays"
    assert record["verified"]["rows"] == record["verified"]["equal"] == 8
    with pytest.raises(ValueError, match="0 came out the same: make it anew"):
        experiments.records.verify("toy", toy_record(0.6, "newer"), 2)
    with pytest.raises(ValueError, match="other weights"):
        experiments.records.verify("toy", toy_record(0.5, "new", "others"), 2)


def test_interrupted_sweep_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, header = [], experiments.records.header("toy", 2, 1) | {"code": "c"}

    def rows_of(setting):
        asked.append(setting["n"])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [{"seed": 0, "agreement": {"mean": 1.0}}]

    settings = {"one": {"n": 1}, "two": {"n": 2}}
    with pytest.raises(KeyboardInterrupt):
        experiments.records.sweep(dict(header), settings, rows_of, ("agreement",))
    record = experiments.records.sweep(dict(header), settings, rows_of, ("agreement",))
    assert asked == [1, 2, 2] and set(record["rows"]) == {"one", "two"}
    experiments.records.sweep(header | {"code": "d"}, settings, rows_of, ("agreement",))
    assert asked == [1, 2, 2, 1, 2], "other code: everything anew"
