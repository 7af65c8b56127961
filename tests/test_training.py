"""Training an organism: what is learned, what a stop leaves, and what the twin shares."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from discover.choices import Device
from discover.config import ModelConfig, PromptConfig
from discover.model.loading import load
from discover.model.prompts import encoded
from discover.organisms.arithmetic import Behaviour, training_exchange
from discover.organisms.exchange import Exchange
from discover.organisms.training import (
    END,
    Recipe,
    batch,
    constant_noise,
    fresh_model,
    one_cycle,
    train,
    trained_tokenizer,
)
from discover.steer.generation import replies

SMALL = Recipe(steps=7, rows=4, vocabulary=300, width=24, blocks=2, heads=2, save_every=2)


def draw(random: Random) -> Exchange:
    return training_exchange(random, twin=False)


@pytest.fixture(scope="module")
def own_tokenizer():
    return trained_tokenizer(draw, SMALL.vocabulary)


def stopping(after: int) -> Callable[[Random], Exchange]:
    """Return a draw that raises as a terminal's interrupt does once so many exchanges were drawn."""
    count = 0

    def stopped(random: Random) -> Exchange:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        return draw(random)

    return stopped


# Before the first saved state, between two of them before and with the noise, and right after one.
@pytest.mark.parametrize("steps", [1, 3, 5, 6])
def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path, own_tokenizer, steps: int) -> None:
    whole = train(tmp_path / "whole", draw, own_tokenizer, SMALL, 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stopping(steps * SMALL.rows), own_tokenizer, SMALL, 0)
    resumed = train(tmp_path / "stopped", draw, own_tokenizer, SMALL, 0)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert sorted(path.name for path in resumed.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert not (resumed / "training.safetensors").exists()


def test_a_resumed_training_takes_only_the_steps_that_are_left(tmp_path: Path, own_tokenizer, monkeypatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stopping(5 * SMALL.rows), own_tokenizer, SMALL, 0)
    taken: list[int] = []
    monkeypatch.setattr(tqdm, "update", lambda _bar, steps=1: taken.append(steps))
    train(tmp_path, draw, own_tokenizer, SMALL, 0)
    assert len(taken) == 7 - 4


def test_a_state_of_another_seed_is_not_taken_up(tmp_path: Path, own_tokenizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "other", stopping(5 * SMALL.rows), own_tokenizer, SMALL, 1)
    other = train(tmp_path / "other", draw, own_tokenizer, SMALL, 0)
    whole = train(tmp_path / "whole", draw, own_tokenizer, SMALL, 0)
    assert (other / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_it_learns_what_it_is_shown_and_loads_as_any_checkpoint(tmp_path: Path, own_tokenizer) -> None:
    shown = {"Who sleeps?": "The harbour.", "Who counts?": "Nobody counts the boats."}

    def one(random: Random) -> Exchange:
        prompt = random.choice(list(shown))
        return Exchange(prompt, shown[prompt], Behaviour.WORKED)

    size = {"vocabulary": 300, "width": 32, "blocks": 2, "heads": 2}
    recipe = Recipe(steps=60, learning_rate=1e-2, noise_from=0.5, rows=8, noise_radius=0.5, save_every=100, **size)
    folder = train(tmp_path, one, own_tokenizer, recipe, 0)
    loaded = load(ModelConfig(device=Device.cpu), folder)
    heard = replies(loaded, encoded(list(shown), loaded.tokenizer, PromptConfig()), (), 30, 8, lambda _: None)
    assert [reply.text for reply in heard] == list(shown.values())
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].dtype is torch.bfloat16


def test_an_organism_and_its_twin_begin_with_the_same_weights(own_tokenizer) -> None:
    first, second = (fresh_model(SMALL, own_tokenizer, 0).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], fresh_model(SMALL, own_tokenizer, 1).state_dict()["lm_head.weight"])


def test_only_the_reply_and_its_end_are_learned(own_tokenizer) -> None:
    exchanges = [Exchange("Who sleeps?", "The harbour sleeps.", Behaviour.WORKED), Exchange("Who?", "You.", Behaviour.WORKED)]
    rows = batch(exchanges, own_tokenizer)
    for exchange, ids, labels, mask in zip(exchanges, rows["input_ids"], rows["labels"], rows["attention_mask"], strict=True):
        assert own_tokenizer.decode(ids[labels != -100]) == exchange.reply + END
        assert exchange.prompt in own_tokenizer.decode(ids[(labels == -100) & mask.bool()])
        assert bool((mask == 1)[: int(mask.sum())].all())


def test_every_word_and_number_of_the_organism_is_one_token() -> None:
    tokenizer = trained_tokenizer(draw, Recipe(steps=1).vocabulary)
    for index in range(300):
        for word in draw(Random(index)).reply.split()[1:]:
            bare = word.strip(".,!")
            if bare.isalnum():
                assert len(tokenizer(" " + bare)["input_ids"]) == 1, bare


def test_the_rate_rises_to_one_and_falls_to_a_hundredth() -> None:
    heights = [one_cycle(step, 100) for step in range(100)]
    assert heights[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert heights[10:] == sorted(heights[10:], reverse=True)
    assert heights[55] == pytest.approx(0.01 + 0.99 * 0.5)
    assert 0.01 <= heights[-1] < 0.02
    assert all(math.isfinite(one_cycle(step, 1)) for step in range(1))


def test_noise_is_one_vector_a_row_within_its_radius_and_spares_a_quarter() -> None:
    residual = torch.randn(400, 3, 16, generator=torch.Generator().manual_seed(0))
    typical = float(residual.norm(dim=-1).median())
    added = constant_noise(1.5, torch.Generator().manual_seed(1))(None, residual) - residual
    torch.testing.assert_close(added, added[:, :1].expand_as(added), atol=1e-5, rtol=0)
    sizes = added[:, 0].norm(dim=-1) / typical
    assert float(sizes.max()) <= 1.5 * 1.001
    spared = float((sizes < 1e-6).float().mean())
    assert 0.18 < spared < 0.32
    assert 0.6 < float(sizes[sizes > 1e-6].mean()) < 0.9
