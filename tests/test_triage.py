"""What a vector does before it speaks, against the model run prompt by prompt with hooks written here."""

from dataclasses import replace
from math import pi

import pytest
import torch
from conftest import WIDTH
from scipy.special import gammaln
from toys import KINDS, after, alone, greedy, hooks_on, kind, part_and_space

from discover.bank import VectorBank
from discover.model.hooks import hidden
from discover.model.slice import residual_after
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_directions
from discover.read import triage
from discover.read.triage import AHEAD, BOOSTED, glances, load_glances, save_glances, sight

SOURCE, TARGET = 1, 2


def bank_of(perturbations, source=SOURCE):
    count = len(perturbations)
    return VectorBank(perturbations, torch.zeros(count), 1.0, 1.0, source, TARGET, {})


def vectors(loaded, batch, count, size=1.0):
    norm = residual_after(loaded, batch, SOURCE)[batch.attention_mask.bool()].norm(dim=-1).median()
    return size * norm * random_directions(count, WIDTH, "triage")


def seen_by(loaded, batch, bank, doses=(), rows=100):
    return glances(sight(loaded, batch, greedy(loaded, batch, 48), TARGET), "learned", bank, doses, rows, lambda _: None)


def by_hand(loaded, batch, vector):
    """Per prompt, without padding and in float64: log-probabilities, and the target residual, with and without a vector."""
    found = []
    for index in range(len(batch.input_ids)):
        ids = alone(batch, index).input_ids[0].tolist()
        length = len(ids)
        with torch.no_grad():
            for _ in range(AHEAD):
                token = int(loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token in loaded.end_ids:
                    break
                ids.append(token)
            own = passed(loaded, ids, length, torch.zeros(WIDTH))
            found.append((own, passed(loaded, ids, length, vector)))
    return found


def passed(loaded, ids, length, vector):
    kept = []

    def add(_module, _inputs, output):
        changed = hidden(output) + vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [
        loaded.anatomy.blocks[SOURCE].register_forward_hook(add),
        loaded.anatomy.blocks[TARGET].register_forward_hook(lambda _module, _inputs, output: kept.append(hidden(output)[0])),
    ]
    logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, length - 1 :].double()
    for handle in handles:
        handle.remove()
    return logits.log_softmax(dim=-1), kept[0].double(), kept[0][length - 1 :].double()


def check(loaded, batch):
    added = vectors(loaded, batch, 3)
    for one, vector in zip(seen_by(loaded, batch, bank_of(after(SOURCE, added))), added, strict=True):
        pairs = by_hand(loaded, batch, vector)
        each = [(q, p, (p.exp() * (p - q)).sum(dim=-1)) for (q, _, _), (p, _, _) in pairs]
        assert one.kl == pytest.approx(float(torch.stack([kl.max() for _, _, kl in each]).mean()), rel=1e-3)
        moved = [p.argmax(dim=-1) != q.argmax(dim=-1) for q, p, _ in each]
        assert one.shifted == pytest.approx(sum(bool(some[0]) for some in moved) / len(moved))
        assert one.departed == pytest.approx(sum(bool(some.any()) for some in moved) / len(moved))
        wavers = [-(p.exp() * p).sum(dim=-1)[kl.argmax()] for _, p, kl in each]
        assert one.unsure == pytest.approx(float(torch.stack(wavers).mean()), rel=1e-3)
        everything = torch.cat([whole for (_, whole, _), _ in pairs]).norm(dim=-1)
        effects = [steered - own for (_, _, own), (_, _, steered) in pairs]
        means = torch.stack([effect.norm(dim=-1).mean() for effect in effects])
        # The median of torch is the lower of two in the middle; so is this.
        assert one.norm == pytest.approx(float(means.mean() / everything.sort().values[(len(everything) - 1) // 2]), rel=1e-3)
        first, second = (effect.mean(dim=0) for effect in effects)
        assert one.agreement == pytest.approx(float(torch.cosine_similarity(first, second, dim=0)), abs=1e-3)
        gains = torch.zeros(AHEAD + 1, pairs[0][0][0].shape[1], dtype=torch.float64)
        for q, p, _ in each:
            gains[: len(q)] += p.exp() * (p - q) / len(each)
        best = gains.flatten().topk(BOOSTED).values
        assert [boost.gain for boost in one.boosted] == pytest.approx(best.tolist(), rel=1e-3)
        position, token = divmod(int(gains.flatten().argmax()), gains.shape[1])
        assert (one.boosted[0].token, one.boosted[0].position) == (loaded.tokenizer.decode([token]), position)


def test_a_glance_is_what_prompts_say_one_by_one(loaded, batch):
    check(loaded, batch)
    assert hooks_on(loaded.model) == 0


def test_replies_that_end_early_are_looked_at_up_to_their_end(llama, batch):
    first, second = (by_hand(llama, batch, torch.zeros(WIDTH))[prompt][0][0].argmax(dim=-1).tolist() for prompt in (0, 1))
    ends = next(token for token in first[1:AHEAD] if token not in second[:AHEAD] and token != first[0])
    shorter = replace(llama, end_ids=(ends,))
    lengths = sight(shorter, batch, greedy(shorter, batch, 48), TARGET).mask.sum(dim=1).tolist()
    assert lengths[0] < lengths[1] == AHEAD + 1
    check(shorter, batch)
    nothing = replace(llama, end_ids=(first[0],))
    assert sight(nothing, alone(batch, 0), greedy(nothing, alone(batch, 0), 48), TARGET).said == 0
    (one,) = seen_by(nothing, alone(batch, 0), bank_of(after(SOURCE, vectors(llama, batch, 1))))
    assert one.shifted == one.departed and {boost.position for boost in one.boosted} == {0} and one.agreement is None


def test_nobody_looks_further_than_anybody_speaks(llama, batch):
    assert [sight(llama, batch, greedy(llama, batch, tokens), TARGET).said for tokens in (2, AHEAD, 48)] == [2, AHEAD, AHEAD]


def test_pieces_change_nothing_and_are_told(llama, batch):
    bank, told = bank_of(after(SOURCE, vectors(llama, batch, 5))), []
    whole = seen_by(llama, batch, bank)
    pieces = glances(sight(llama, batch, greedy(llama, batch, 48), TARGET), "learned", bank, (), 4, told.append)
    assert told == [2, 2, 1] and [one.vector for one in pieces] == [0, 1, 2, 3, 4]
    for one, other in zip(whole, pieces, strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e-4) and one.agreement == pytest.approx(other.agreement, abs=1e-5)


def test_a_dose_is_what_the_scaled_vector_does(llama, batch):
    added = vectors(llama, batch, 3)
    curves = [dict(one.doses) for one in seen_by(llama, batch, bank_of(after(SOURCE, added)), (0.5, 0.0))]
    assert all(list(curve) == [0.0, 0.5, 1.0] for curve in curves)
    halves = [one.kl for one in seen_by(llama, batch, bank_of(after(SOURCE, added / 2)))]
    assert [curve[0.5] for curve in curves] == pytest.approx(halves, rel=1e-4)
    assert [curve[0.0] for curve in curves] == pytest.approx([0.0] * 3, abs=1e-6)
    assert min(curve[1.0] - curve[0.5] for curve in curves) > 1e-4, "more does more here"


def test_a_vector_of_zeros_does_nothing(llama, batch):
    (one,) = seen_by(llama, batch, bank_of(after(SOURCE, torch.zeros(1, WIDTH))))
    assert (one.shifted, one.departed, one.norm) == (0.0, 0.0, 0.0) and one.kl == pytest.approx(0.0, abs=1e-6)


def test_presence_has_a_closed_form_and_random_directions_have_one(loaded, batch):
    seen = sight(loaded, batch, greedy(loaded, batch, 48), TARGET)
    residual = residual_after(loaded, seen.longer, SOURCE)[seen.longer.attention_mask.bool()].double()
    many = bank_of(after(SOURCE, random_directions(4000, WIDTH, "presence")))
    mean = torch.tensor(triage.presence(seen, many)).mean()
    assert float(mean) == pytest.approx(1.0, abs=0.05)
    # Independent of the code: the mean of |<x, v>| over the sphere, by the norm of x and the mean of one coordinate.
    coordinate = torch.exp(torch.tensor(gammaln(WIDTH / 2) - gammaln((WIDTH + 1) / 2))) / pi**0.5
    along = 7 * residual[3]
    (one,) = triage.presence(seen, bank_of(after(SOURCE, along[None].float())))
    expected = (residual @ (along / along.norm())).abs().sum() / (coordinate * residual.norm(dim=1).sum())
    assert one == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_a_glance(llama, batch, name):
    config = kind(name, steered_positions=2)
    part, space = part_and_space(llama, batch, config, 0, TARGET)
    perturbations = space.sized(3).perturbations(drawn(space, 3, "triage"), part.residual_norm)
    found = seen_by(llama, batch, bank_of(replace(perturbations, last=2), 0))
    assert all(one.kl > 1e-4 and one.norm > 0.01 for one in found)
    assert all((one.presence is None) == (name != "vector") for one in found)


def test_what_is_not_finite_is_named(llama, batch):
    with pytest.raises(FloatingPointError, match="next-token distribution under a vector"):
        seen_by(llama, batch, bank_of(after(SOURCE, torch.full((1, WIDTH), torch.inf))))


def test_glances_are_read_as_they_were_written(llama, batch, tmp_path):
    found = seen_by(llama, batch, bank_of(after(SOURCE, vectors(llama, batch, 2))), (0.5,))
    found += seen_by(llama, alone(batch, 0), bank_of(after(SOURCE, vectors(llama, batch, 1))))
    save_glances(tmp_path / "triage.jsonl", found)
    assert load_glances(tmp_path / "triage.jsonl") == found
