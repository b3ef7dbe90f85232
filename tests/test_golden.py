"""Golden rows: a few rows of every record, measured again by the code that makes it.

A change of code that changes what is measured fails here; one that does not, does not.
"""

import json

import pytest
import torch

from storydiff_lite import experiments
from storydiff_lite.experiments import __main__ as command
from storydiff_lite.experiments import records

pytestmark = pytest.mark.usefixtures("few_threads")
NAMES = [name for name, what in experiments.EXPERIMENTS.items() if what.golden]


@pytest.mark.parametrize("name", NAMES)
def test_golden_rows_come_out_as_recorded(name):
    changed = experiments.EXPERIMENTS[name].differences(experiments.load(name))
    assert not changed, f"book/results/{name}.json is not of this code, or the code is wrong: {changed}"


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_record_has_golden_rows_or_says_why_not(name):
    what, found = experiments.EXPERIMENTS[name], experiments.load(name)["golden"]
    assert [row["setting"] for row in found["rows"]] == list(what.golden)
    assert found.get("left_out", "") == what.left_out and (what.golden or what.left_out)
    if what.golden:
        assert found["rule"] in (records.FIRST, records.SUREST) and found.get("note", "") == what.note


# ------------------------------------------------------------------------------------------ how they are made
class Judge:
    """Reads whatever it is told, as sure as it is told."""

    def __init__(self, *sure):
        self.sure = torch.tensor(sure)

    def read(self, images):
        return {k: torch.stack([self.sure, 1 - self.sure], -1) for k in records.COUNTED}

    def names(self, images):
        return [dict.fromkeys(records.COUNTED, "a" if p > 0.5 else "b") for p in self.sure.tolist()]


def test_reading_says_how_far_the_least_certain_one_leads():
    names, found = records.reading(Judge(0.9, 0.4, 0.95), None)
    assert found["lead"] == pytest.approx(0.2) and found["read"]["fur"] == ["a", "b", "a"]
    assert len(names) == 3 and set(found["read"]) == set(records.COUNTED)


def toy(leads, better=0.0, **more):
    """An experiment whose rows are read with these leads."""

    def opened(device):
        def rows_of(setting, seeds):
            values = [setting["rate"] + i / 10 + better for i in seeds]
            return [
                {"seed": i, "agreement": {"mean": v}, "lead": leads[i], "read": {}}
                for i, v in zip(seeds, values, strict=True)
            ]

        return rows_of

    def run(stories, device):
        record = records.header("toy", stories, 1) | what.fingerprint()
        settings, rows_of = {"a": {"rate": 0.1}, "b": {"rate": 0.2}}, opened(device)
        return records.sweep(record, settings, lambda s: rows_of(s, range(stories)), ("agreement",))

    what = records.Experiment(run, opened, ("agreement",), ("judge",), stories=4, **more)
    return what


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


def test_the_row_with_the_least_doubt_is_golden_and_is_measured_again(elsewhere):
    what = toy([0.1, 0.5, 0.3, 0.4], golden=("b",))
    records.save("toy", what.make())
    record = records.load("toy")
    (row,) = record["golden"]["rows"]
    assert (row["setting"], row["seed"], row["lead"]) == ("b", 1, 0.5)
    assert record["surest"] == {"a": 1, "b": 1} and record["golden"]["rule"] == records.SUREST
    assert record["rows"]["b"][1] == {"seed": 1, "agreement": row["agreement"]}, "the row itself stays short"
    assert row["agreement"] == record["rows"]["b"][1]["agreement"] == pytest.approx(0.3)
    assert not what.differences(record)
    assert not toy([0.1, 0.5, 0.3, 0.4], 0.004).differences(record), "within what another machine does"
    assert not toy([0.1, 0.4, 0.3, 0.2]).differences(record), "how sure the judge is, may change"
    (said,) = toy([0.1, 0.5, 0.3, 0.4], better=0.1).differences(record)
    assert said == "b: agreement of 1 was 0.3000 and is 0.4000"
    assert not toy([0.1, 0.5, 0.3, 0.4], 0.1, within={"agreement": 0.2}).differences(record)


def test_what_is_read_must_be_the_same_and_nothing_may_be_missing():
    old = {"seed": 3, "fidelity": 1.0, "identity": None, "read": {"fur": ["brown"]}, "lead": 0.9}
    assert not records.apart(old, dict(old))
    assert records.apart(old, old | {"read": {"fur": ["grey"]}}) == [
        "read of 3 was {'fur': ['brown']} and is {'fur': ['grey']}"
    ]
    assert records.apart(old, old | {"identity": 0.5}) == ["identity of 3 was None and is 0.5"]
    assert records.apart(old, {k: v for k, v in old.items() if k != "fidelity"})


def test_records_of_other_weights_or_other_code_get_no_golden_rows(elsewhere, monkeypatch):
    what = toy([0.1, 0.2], golden=("a",))
    record = what.run(2, "cpu")
    del record["surest"]
    with pytest.raises(ValueError, match="other weights: make it anew"):
        what.gild(record | {"weights": {"judge": "0"}})
    monkeypatch.setitem(experiments.EXPERIMENTS, "consistency", what)
    monkeypatch.setattr(command, "EXPERIMENTS", experiments.EXPERIMENTS)
    records.save("consistency", record)
    command.main(["consistency", "--golden"])
    kept = json.loads((elsewhere / "consistency.json").read_text())
    assert [row["seed"] for row in kept["golden"]["rows"]] == [0] and kept["golden"]["rule"] == records.FIRST
    assert kept["rows"] == record["rows"]
    other = toy([0.1, 0.2], 0.2, golden=("a",))
    monkeypatch.setitem(experiments.EXPERIMENTS, "consistency", other)
    with pytest.raises(SystemExit, match="agreement of 0 was 0.1000 and is 0.3000\nThe record 'consistency'"):
        command.main(["consistency", "--golden"])
