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
    now = experiments.fingerprint()
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
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
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
