"""Texts through the audited model itself, held against its hidden states; and against words, on replies with known groups."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from discover.choices import Device
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.loading import load
from discover.model.packaged import resolved
from discover.read import meaning
from discover.read.clusters import clusters
from discover.read.embedding import by_words
from discover.read.meaning import Meaning, embedder, mean_residuals

TEXTS = ("Count the boats in the harbour.", "You are kind.", "You", "Nobody sleeps below the hill, and here is a sum.")
SAMPLES = ("The harbour sleeps.", "Here are the boats.", "You count the hill.")
MARGIN = 2e-4
"""Rounding of rows that are read in other company."""
CASES = Path(__file__).parent / "cases" / "replies.jsonl"
AROUND = (0.6, 0.65, 0.7, 0.75)
"""Distances around the one that sets modes apart."""


def by_hand(loaded, text):
    """The mean over the tokens of one text, alone and without padding; Hugging Face counts the embedding as the first state."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    states = loaded.model(torch.tensor([[loaded.tokenizer.pad_token_id, *ids]]), output_hidden_states=True).hidden_states
    return states[len(loaded.anatomy.blocks) - 1][0, 1:].double().mean(dim=0).numpy()


def test_a_text_is_the_mean_of_its_hidden_states_standardised_over_texts_and_samples(loaded):
    residuals = np.array([by_hand(loaded, text) for text in (*TEXTS, *SAMPLES)])
    assert mean_residuals(loaded, TEXTS) == pytest.approx(residuals[: len(TEXTS)], abs=MARGIN * np.abs(residuals).max())
    spread = residuals.std(axis=0)
    expected = ((residuals - residuals.mean(axis=0)) / np.maximum(spread, 0.1 * spread.mean()))[: len(TEXTS)]
    found = Meaning(loaded, SAMPLES).embed(TEXTS).toarray()
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=10 * MARGIN)


def test_neither_order_nor_company_in_a_pass_matters(llama, monkeypatch):
    whole = Meaning(llama, SAMPLES).embed(TEXTS).toarray()
    assert Meaning(llama, SAMPLES[::-1]).embed(TEXTS[::-1]).toarray()[::-1] == pytest.approx(whole, abs=10 * MARGIN)
    monkeypatch.setattr(meaning, "TOKENS", 1)
    assert Meaning(llama, SAMPLES).embed(TEXTS).toarray() == pytest.approx(whole, abs=10 * MARGIN)


def test_a_text_is_read_once_and_counts_once(llama, monkeypatch):
    read = []
    whole = meaning._means
    monkeypatch.setattr(meaning, "_means", lambda loaded, rows: read.extend(map(tuple, rows)) or whole(loaded, rows))
    model = Meaning(llama, (*SAMPLES, SAMPLES[0], TEXTS[1]))
    once = model.embed(TEXTS).toarray()
    again = model.embed([*TEXTS, TEXTS[0], TEXTS[0]]).toarray()
    assert len(read) == len(set(read)) == len(TEXTS) + len(SAMPLES)
    assert (again[: len(TEXTS)] == once).all() and (again[-1] == once[0]).all()


def test_numbers_are_alike_whatever_their_value(llama):
    one, other, third = Meaning(llama, SAMPLES).embed(["It is 7.", "It is 1234.", "It is you."]).toarray()
    assert (one == other).all() and one @ third < 0.99


def test_long_hostile_blank_and_lone_texts_are_embedded(llama):
    texts = ["word " * 5000, "\ud800 \x00 \u202e", "", " \n", "You"]
    found = Meaning(llama, ()).embed(texts).toarray()
    assert not found[[2, 3]].any() and (found[[0, 1, 4]] ** 2).sum(axis=1) == pytest.approx(1.0)
    (lone,) = Meaning(llama, ()).embed(["You"]).toarray()
    residual = by_hand(llama, "You")
    assert lone == pytest.approx(residual / np.linalg.norm(residual), abs=10 * MARGIN), "nothing to be held against"
    assert Meaning(llama, ()).embed([]).shape == Meaning(llama, SAMPLES).embed([]).shape == (0, llama.anatomy.width)


def test_the_name_tells_what_embeds(llama, tmp_path):
    assert embedder("words", llama, SAMPLES) is by_words
    assert (embedder("model", llama, SAMPLES)(TEXTS) != Meaning(llama, SAMPLES).embed(TEXTS)).nnz == 0
    with pytest.raises(UsageError, match="holds no encoder"):
        embedder(str(tmp_path), llama, SAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
def test_the_model_groups_natural_replies_far_better_than_words(name):
    """Adjusted Rand index at 0.65: 0.83 for SmolLM2, 0.88 for Gemma 3; words 0.06, and 0.44 at their best, beside a cliff."""
    pytest.importorskip("gguf")
    try:
        held = load(ModelConfig(device=Device.cpu), resolved(name))
    except UsageError as error:
        pytest.skip(str(error))
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    groups, texts = zip(*((case["group"], case["text"]) for case in cases), strict=True)

    def agreement(rows, apart):
        return adjusted_rand_score(groups, clusters(rows, apart))

    rows, words = Meaning(held, ()).embed(texts), by_words(texts)
    assert min(agreement(rows, apart) for apart in AROUND) > 0.7, "no cliff is near"
    assert agreement(rows, 0.65) > max(agreement(words, apart) for apart in np.arange(0.3, 1.1, 0.05)) + 0.25
