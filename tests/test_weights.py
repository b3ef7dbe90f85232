"""Weights are the ones that were trained, or there is a clear error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from storydiff_lite import weights
from storydiff_lite.pipeline import StoryPipeline


@pytest.fixture
def root(tmp_path):
    for name in ("micro/unet", "micro/vae", "judge"):
        (tmp_path / name).mkdir(parents=True)
        save_file({"w": torch.arange(4.0)}, tmp_path / name / "model.safetensors")
    (tmp_path / "micro" / "README.md").write_text("a card may change")
    (tmp_path / "loose.txt").write_text("not a model")
    weights.write_manifest(tmp_path)
    return tmp_path


def test_manifest_and_path(root):
    assert sorted(json.loads((root / "manifest.json").read_text())) == [
        "judge/model.safetensors",
        "micro/unet/model.safetensors",
        "micro/vae/model.safetensors",
    ]
    assert weights.path("micro", root) == root / "micro" and weights.names(root) == ["judge", "micro"]
    (root / "micro" / "README.md").write_text("another card")
    assert weights.path("micro", root) == root / "micro"


def test_hashed_once(root, monkeypatch):
    weights.path("micro", root)
    monkeypatch.setattr(weights, "sha256", lambda file: pytest.fail("hashed again"))
    weights.path("micro", root)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: f.unlink(), "is missing"),
        (lambda f: f.write_bytes(f.read_bytes()[:-4]), "changed or cut short"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"?"), "changed or cut short"),
        (lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda f: f.write_bytes(b""), "0 bytes"),
    ],
)
def test_damage_is_named(root, damage, says, when):
    if when == "after":
        weights.path("micro", root)
    damage(root / "micro" / "vae" / "model.safetensors")
    with pytest.raises(weights.WeightsError, match=says) as caught:
        weights.path("micro", root)
    assert "vae" in str(caught.value) and "\n" not in str(caught.value)
    assert weights.path("judge", root) == root / "judge"


def test_unknown_name_and_bad_manifest(root):
    with pytest.raises(weights.WeightsError, match="'macro'.*judge, micro"):
        weights.path("macro", root)
    (root / "manifest.json").write_text("{")
    with pytest.raises(weights.WeightsError, match="cannot be read"):
        weights.path("micro", root)
    (root / "manifest.json").unlink()
    with pytest.raises(weights.WeightsError, match="is missing"):
        weights.path("micro", root)


def test_pipeline_refuses_damaged_weights(root, monkeypatch):
    (root / "micro" / "unet" / "model.safetensors").write_bytes(b"short")
    monkeypatch.setattr(weights.path, "__defaults__", (root,))
    with pytest.raises(weights.WeightsError, match="unet"):
        StoryPipeline.from_pretrained("micro")


def test_atomic_save_of_a_file_and_a_folder(tmp_path):
    file, folder = tmp_path / "a.safetensors", tmp_path / "deep" / "model"

    def failing(to):
        to.mkdir() if "model" in to.name else to.write_text("half")
        raise RuntimeError

    for target in (file, folder):
        with pytest.raises(RuntimeError):
            weights.atomic_save(target, failing)
        assert not target.exists()
    weights.atomic_save(file, lambda to: save_file({"w": torch.ones(2)}, to))
    weights.atomic_save(folder, lambda to: (to.mkdir(), (to / "one").write_text("1")))
    weights.atomic_save(folder, lambda to: (to.mkdir(), (to / "two").write_text("2")))
    with pytest.raises(RuntimeError):
        weights.atomic_save(folder, failing)
    assert load_file(file)["w"].tolist() == [1, 1] and [f.name for f in folder.iterdir()] == ["two"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "deep"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_no_config_tells_where_it_was_made():
    configs = list(weights.DATA.rglob("config.json"))
    assert len(configs) >= 5
    for file in configs:
        assert "_name_or_path" not in json.loads(file.read_text()), file
