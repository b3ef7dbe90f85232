"""The records are those of the code and the weights that are here, and their summaries follow from their
rows.
"""

import json

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


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_summaries_follow_from_the_rows(name):
    record = experiments.load(name)
    assert set(record["rows"]) == set(record["settings"])
    for setting, rows in record["rows"].items():
        assert len(rows) == record["stories"] >= 100
        for kind in ("agreement", "fidelity"):
            again = experiments.mean_and_interval([r[kind] for r in rows])
            assert record["summary"][setting][kind] == pytest.approx(again, abs=2e-4)


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
