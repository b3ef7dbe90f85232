"""Weights are the ones that were trained, or there is a clear error."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from storydiff_lite import known_rows, weights
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.prompts import micro_parts


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
    assert weights.path("micro", root) == root / "micro"
    (root / "micro" / "README.md").write_text("another card")
    assert weights.path("micro", root) == root / "micro"


def test_picture_size_is_the_autoencoders():
    pipe = StoryPipeline.from_pretrained("micro")
    assert weights.picture_size() == pipe.vae.config.sample_size
    assert weights.picture_size() == pipe.unet.config.sample_size * pipe.vae_scale_factor


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


def test_an_embedding_is_stored_by_its_known_rows():
    table = torch.zeros(9, 4, dtype=torch.float16)
    table[[0, 5, 8]] = torch.randn(3, 4).half()
    state = {"embeddings.token_embedding.weight": table, "fc.weight": torch.eye(3)}
    stored = known_rows.compact(state)
    assert stored["embeddings.token_embedding.weight"].shape == (3, 4)
    whole = known_rows.expanded(stored)
    assert whole.keys() == state.keys() and all(torch.equal(whole[k], state[k]) for k in state)
    assert all(whole[k].dtype == state[k].dtype for k in state)


def test_the_shipped_text_encoders_have_all_rows_of_clips_vocabulary():
    parts = micro_parts(torch.float16)
    for name, width in (("text_encoder", 32), ("text_encoder_2", 64)):
        table = parts[name].get_input_embeddings().weight
        assert table.shape == (49408, width) and table.dtype == torch.float16
        known = table.abs().sum(1) > 0
        ids = parts["tokenizer"]("a brown bear reading in the snow", verbose=False).input_ids
        assert known[ids].all() and known.sum() < 200
    assert [parts[f"tokenizer{k}"].pad_token_id for k in ("", "_2")] == [49407, 0]
    assert set(micro_parts(given=("text_encoder", "tokenizer"))) == {"text_encoder_2", "tokenizer_2"}


def test_the_shipped_folder_is_micro_and_is_saved_whole(tmp_path):
    pipe = StoryPipeline.from_pretrained(weights.path("micro"), dtype=torch.float16)
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {torch.float16}
    with weights.quiet():
        pipe.save_pretrained(tmp_path)
        plain = StableDiffusionXLPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    for name in ("text_encoder", "text_encoder_2"):
        mine, saved = (getattr(p, name).state_dict() for p in (pipe, plain))
        assert mine.keys() == saved.keys() and all(torch.equal(saved[k], mine[k]) for k in mine)
    assert plain.tokenizer_2.pad_token == "!"
