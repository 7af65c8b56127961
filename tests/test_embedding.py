"""Texts as vectors: by words, and through a small encoder on disk, held against another computation of its pooling."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from discover.errors import UsageError
from discover.read import embedding
from discover.read.embedding import by_words, encoder, masked, pooled, with_meaning
from discover.read.signals import Bounds, completion
from discover.steer.generation import Reply

TEXTS = ["Count the boats in the harbour.", "You are kind.", "You", "Here is a sum: 12 + 30 = 42."]
LIMITS = Bounds(2.0, 0.5)
POOLINGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, initializer_range=0.5, **sizes))
    path = tmp_path_factory.mktemp("bert")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def pool_by(folder, *modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **dict.fromkeys(modes, True)}))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_encoder_pools_as_its_folder_says(folder, pooling):
    pool_by(folder, POOLINGS[pooling])
    found = encoder(folder).embed([*TEXTS, TEXTS[1]]).toarray()
    model, tokenizer = BertModel.from_pretrained(folder).double().eval(), encoder(folder).tokenizer
    for text, row in zip([*TEXTS, TEXTS[1]], found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]  # Alone, without padding.
        expected = {"mean": hidden.mean(dim=0), "cls": hidden[0], "lasttoken": hidden[-1]}[pooling]
        torch.testing.assert_close(torch.tensor(row).double(), expected / expected.norm(), atol=1e-5, rtol=1e-4)


def test_without_a_pooling_the_mean_is_taken_and_pieces_do_not_matter(folder, monkeypatch):
    (folder / "1_Pooling" / "config.json").unlink(missing_ok=True)
    assert encoder(folder).pooling == "mean"
    whole = encoder(folder).embed(TEXTS).toarray()
    monkeypatch.setattr(embedding, "ROWS", 1)
    assert encoder(folder).embed(TEXTS).toarray() == pytest.approx(whole, abs=1e-5)


def test_padding_on_the_left_is_left_out():
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    for pooling, first, second in (
        ("mean", hidden[0, 2:].mean(dim=0), hidden[1, :3].mean(dim=0)),
        ("cls", hidden[0, 2], hidden[1, 0]),
        ("lasttoken", hidden[0, 3], hidden[1, 2]),
    ):
        torch.testing.assert_close(pooled(hidden, mask, pooling), torch.stack([first, second]))


def test_long_hostile_and_empty_texts_are_embedded(folder):
    found = encoder(folder).embed(["word " * 5000, "\ud800 \x00 \u202e", "", "  ", "You"]).toarray()
    assert (found[2] == 0).all() and (found[3] == 0).all()
    assert (found[[0, 1, 4]] ** 2).sum(axis=1) == pytest.approx(1.0)
    assert encoder(folder).embed([]).shape[0] == 0


def test_what_cannot_be_used_is_told_in_one_sentence(folder, tmp_path):
    with pytest.raises(UsageError, match="holds no encoder"):
        encoder(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="holds no encoder"):
        encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="cannot be loaded"):
        encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: one for name, one in weights.items() if "layer.1" not in name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UsageError, match="lacks 16 weights"):
        encoder(tmp_path)
    pool_by(folder, "pooling_mode_weightedmean_tokens")
    with pytest.raises(UsageError, match="weightedmean"):
        encoder(folder)
    pool_by(folder, *POOLINGS.values())
    with pytest.raises(UsageError, match="pooling_mode_mean_tokens, pooling_mode_cls_token"):
        encoder(folder)


def test_code_that_comes_with_an_encoder_is_not_run(folder, tmp_path):
    for one in folder.glob("*.*"):
        (tmp_path / one.name).write_bytes(one.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(UsageError, match="cannot be loaded"):
        encoder(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_words_are_counted_alike_whatever_the_number():
    rows = by_words(["The answer is 7.", "The answer is 1234.", "Moon and cheese", ""]).toarray()
    alike = rows @ rows.T
    assert alike[0, 1] == pytest.approx(1.0) and alike[0, 2] == 0 and not rows[3].any()
    assert masked("東京 7") == " 東  京  0"
    assert by_words(["", "\n"]).shape[0] == 2 and by_words([]).shape[0] == 0


def test_meaning_is_the_distance_from_the_unsteered_reply_to_the_same_prompt():
    def said(bank, prompt, text):
        return completion(
            bank, 0, prompt, Reply((1,), text, True, ()), None, Reply((), "", True, ()), Bounds(2.0, 0.5), [1.0], None
        )

    spoken = [
        *(said("unsteered", 0, "The moon is far"), said("unsteered", 1, "Cheese is near")),
        *(said("learned", 0, "The moon is far"), said("learned", 1, "The moon is far"), said("learned", 1, "")),
    ]
    found = [one.meaning for one in with_meaning(spoken, by_words)]
    rows = by_words([one.text for one in spoken]).toarray()
    assert found == pytest.approx([0, 0, 0, 1 - rows[3] @ rows[1], 1], abs=1e-6) and 0 < found[3] < 1
