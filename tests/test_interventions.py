"""Interventions do what hooks written by hand do, where and when they are told to, and leave nothing behind."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch
from conftest import BLOCKS, WIDTH
from torch import nn
from toys import KINDS, after, alone, hooks_on, kind, part_and_space

from discover.choices import Device, Dtype
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.anatomy import Anatomy, Place, Site, Writer
from discover.model.change import Change, Perturbations, biases
from discover.model.loading import LoadedModel, load
from discover.model.prompts import left_padded
from discover.model.slice import residual_after
from discover.perturb.spaces import drawn
from discover.perturb.sphere import orthonormalised, random_directions, random_rows, unit
from discover.steer.generation import replies
from discover.steer.interventions import (
    EVERYWHERE,
    PROMPT,
    SAID,
    Ablation,
    Addition,
    Condition,
    Rotation,
    Window,
    added,
    intervened,
    orthonormal_rows,
)

TOKENS = 6
WRITERS = {
    **dict.fromkeys(("llama", "qwen3", "mistral", "gemma2"), ("self_attn.o_proj", "mlp.down_proj")),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
}
"""What writes to the residual stream inside a block, by name, which the tool finds by structure."""
WINDOWS = {
    EVERYWHERE: lambda prompt: slice(0, None),
    PROMPT: lambda prompt: slice(0, prompt),
    SAID: lambda prompt: slice(prompt, None),
    Window(-3, None): lambda prompt: slice(max(prompt - 3, 0), None),
    Window(-2, -1): lambda prompt: slice(prompt - 2, prompt - 1),
    Window(-1, 0): lambda prompt: slice(prompt - 1, prompt),
    Window(None, -1): lambda prompt: slice(0, prompt - 1),
    Window(1, 2): lambda prompt: slice(prompt + 1, prompt + 2),
    Window(2, None): lambda prompt: slice(prompt + 2, None),
}
"""Each with the positions of an unpadded text that it names, given the length of the prompt."""


def close(value, reference, tolerance=1e-4):
    torch.testing.assert_close(value, reference, atol=tolerance * float(reference.abs().max()), rtol=tolerance)


def norm_of(loaded, batch, layer):
    return residual_after(loaded, batch, layer)[batch.attention_mask.bool()].norm(dim=-1).median()


def strong(loaded, batch, layer, count):
    """Vectors [count, D] three times as long as what they are added to."""
    return 3 * norm_of(loaded, batch, layer) * random_directions(count, WIDTH, "interventions")


def pairs(count, width=WIDTH):
    """Two orthonormal directions a row [count, 2, D] in float64."""
    return torch.stack([orthonormalised(random_rows(2, width, "pairs", row)) for row in range(count)])


def logits_of(loaded, batch, interventions, said=None):
    with torch.no_grad(), intervened(loaded, interventions, said):
        return loaded.forward(batch)


def speak(loaded, batch, interventions):
    return replies(loaded, batch, interventions, TOKENS, 100, lambda _: None)


def ids_of(batch, row):
    return batch.input_ids[row][batch.attention_mask[row].bool()].tolist()


def between(values):
    """A threshold in the widest gap of the middle half of some values, so that rounding moves none across it."""
    values = values.flatten().sort().values
    middle = values[len(values) // 4 : 3 * len(values) // 4 + 1]
    widest = int(middle.diff().argmax())
    return float(middle[widest : widest + 2].mean())


# What is done by hand: one unpadded row, no cache, plain torch hooks; an edit is (module, whether at its input, function).


@contextmanager
def hooked(edits):
    def at_input(function):
        def hook(_module, inputs, named):
            if inputs:
                return (function(inputs[0]), *inputs[1:]), named
            return inputs, {**named, "hidden_states": function(named["hidden_states"])}

        return hook

    def at_output(function):
        return lambda _m, _i, out: (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)

    with ExitStack() as stack, torch.no_grad():
        for module, entering, function in edits:
            if entering:
                handle = module.register_forward_pre_hook(at_input(function), with_kwargs=True)
            else:
                handle = module.register_forward_hook(at_output(function))
            stack.callback(handle.remove)
        yield


def greedy_by_hand(loaded, ids, edits):
    """What is said token after token, and the logits [said, V] that it was chosen by."""
    said, chosen_by = [], []
    with hooked(edits):
        for _ in range(TOKENS):
            logits = loaded.model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1]
            if int(logits.argmax()) in loaded.end_ids:
                break
            chosen_by.append(logits)
            said.append(int(logits.argmax()))
    return tuple(said), torch.stack(chosen_by) if said else torch.zeros(0, logits.shape[0])


def where(positions, function):
    """The function at some positions alone."""

    def changed(x):
        x = x.clone()
        x[:, positions] = function(x[:, positions])
        return x

    return changed


def taken_out(directions):
    """Directions [k, D], one after the other."""

    def function(x):
        for direction in directions:
            x = x - (x @ direction)[..., None] * direction
        return x

    return function


def ablation_by_hand(loaded, family, positions, directions):
    edits = [(loaded.anatomy.blocks[0], True, where(positions, taken_out(directions)))]
    for block in loaded.anatomy.blocks:
        modules = [*(block.get_submodule(name) for name in WRITERS[family]), block]
        edits += [(module, False, where(positions, taken_out(directions))) for module in modules]
    return edits


def slerp(x, direction, degrees):
    """The rotation of x [.., D] by interpolation on the great circle through it and the direction."""
    size = x.norm(dim=-1, keepdim=True)
    apart = torch.arccos((x @ direction / size[..., 0]).clamp(-1, 1))[..., None]
    angle = torch.deg2rad(torch.as_tensor(degrees, dtype=x.dtype))
    angle = torch.minimum(torch.maximum(angle, apart - torch.pi), apart)
    return ((apart - angle).sin() * x + angle.sin() * size * direction) / apart.sin()


def check_against_hand(loaded, batch, interventions, edits_of_row):
    """Cached generation, and one teacher-forced pass, of a padded batch are what the loop by hand says, row by row."""
    spoken = speak(loaded, batch, interventions)
    by_hand = [greedy_by_hand(loaded, ids_of(batch, row), edits_of_row(row)) for row in range(len(batch.input_ids))]
    assert [one.tokens for one in spoken] == [said for said, _ in by_hand]
    texts = left_padded(batch.prompts, [ids_of(batch, row) + list(said) for row, (said, _) in enumerate(by_hand)], 0)
    lengths = [len(said) for said, _ in by_hand]
    forced = logits_of(loaded, texts, interventions, lengths)
    plain = loaded.forward(texts)
    apart = []
    for row, (said, chosen_by) in enumerate(by_hand):
        found = forced[row, -len(said) - 1 : -1] if said else forced[row, :0]
        assert tuple(found.argmax(dim=-1).tolist()) == said
        if said:
            close(found, chosen_by)
            apart.append((found - plain[row, -len(said) - 1 : -1]).abs().max() / plain[row].std())
    return spoken, apart


# Nothing


def test_nothing_changes_no_bit(loaded, batch):
    direction = random_directions(2, WIDTH, "nothing")
    nothing = [
        added(after(1, strong(loaded, batch, 1, 2)).scaled(0.0)),
        Rotation(2, direction, torch.zeros(2), EVERYWHERE, None),
        Ablation(torch.zeros(2, 0, WIDTH), EVERYWHERE, None),
    ]
    plain, said = loaded.forward(batch), speak(loaded, batch, ())
    for interventions in (*([one] for one in nothing), nothing):
        assert torch.equal(logits_of(loaded, batch, interventions), plain)
        assert speak(loaded, batch, interventions) == said
    assert any(one.tokens for one in said)


@pytest.mark.parametrize("name", KINDS)
def test_multiplier_zero_of_every_kind_changes_no_bit(llama, batch, name):
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    some = space.sized(2).perturbations(drawn(space.sized(2), 2, "zero"), part.residual_norm)
    plain = llama.forward(batch)
    assert torch.equal(logits_of(llama, batch, [added(some.scaled(0.0))]), plain)
    assert not torch.equal(logits_of(llama, batch, [added(some)]), plain)


def test_no_intervention_hooks_nothing(llama, batch):
    with intervened(llama, (), None) as counts:
        assert counts == [] and hooks_on(llama.model) == 0
        llama.forward(batch)


# Addition, ablation, rotation


@pytest.mark.parametrize("window", [PROMPT, SAID, Window(-3, None), Window(-1, 0), Window(2, None)], ids=str)
def test_an_addition_in_a_window_is_a_hook_by_hand(loaded, batch, window):
    vectors = strong(loaded, batch, 1, 2)

    def edits(row):
        positions = WINDOWS[window](len(ids_of(batch, row)))
        return [(loaded.anatomy.blocks[1], False, where(positions, lambda x: x + vectors[row]))]

    spoken, apart = check_against_hand(loaded, batch, [Addition(after(1, vectors), window, None)], edits)
    assert max(len(one.tokens) for one in spoken) > 3, "too short for what comes later in a reply to be tested"
    assert max(apart) > 1e-2, "nothing was steered"


@pytest.mark.parametrize("window", [PROMPT, SAID, Window(-3, None), Window(1, 2)], ids=str)
def test_a_prompt_of_one_token_is_a_prompt(llama, window):
    """Its pass is as long as a step of generation."""
    batch = left_padded(["", ""], [[40], [77]], 0)
    vectors = strong(llama, batch, 1, 2)

    def edits(row):
        return [(llama.anatomy.blocks[1], False, where(WINDOWS[window](1), lambda x: x + vectors[row]))]

    spoken, apart = check_against_hand(llama, batch, [Addition(after(1, vectors), window, None)], edits)
    assert max(len(one.tokens) for one in spoken) > 3 and max(apart) > 1e-2


def test_all_three_kinds_each_in_a_window_of_its_own_are_hooks_by_hand(loaded, family, batch):
    vectors, directions, degrees = strong(loaded, batch, 2, 2), pairs(2).float(), torch.tensor([50.0, -35.0])
    interventions = [
        Rotation(0, directions[:, 1], degrees, SAID, None),
        Ablation(directions, Window(-2, None), None),
        Addition(after(2, vectors), Window(-1, 0), None),
    ]

    def edits(row):
        prompt, blocks = len(ids_of(batch, row)), loaded.anatomy.blocks
        return [
            (blocks[0], False, where(slice(prompt, None), lambda x: slerp(x, directions[row, 1], degrees[row]))),
            *ablation_by_hand(loaded, family, slice(max(prompt - 2, 0), None), directions[row]),
            (blocks[2], False, where(slice(prompt - 1, prompt), lambda x: x + vectors[row])),
        ]

    spoken, apart = check_against_hand(loaded, batch, interventions, edits)
    assert max(len(one.tokens) for one in spoken) > 3 and max(apart) > 1e-2


def test_ablation_leaves_nothing_along_its_directions(loaded, batch):
    directions, blocks = pairs(2).float(), loaded.anatomy.blocks

    def seen():
        found = []

        def record(x):
            found.append(x)
            return x

        with hooked([(blocks[0], True, record), *((block, False, record) for block in blocks)]):
            loaded.forward(batch)
        return found

    plain = seen()
    with intervened(loaded, [Ablation(directions, EVERYWHERE, None)], None):
        without = seen()
    assert len(without) == BLOCKS + 1
    keep = batch.attention_mask.bool()
    for before, x in zip(plain, without, strict=True):
        size = float(before[keep].norm(dim=-1).median())
        assert (x @ directions.mT)[keep].abs().max() < 2e-5 * size
        assert (before @ directions.mT)[keep].abs().max() > 0.1 * size
    expected = plain[0] - sum((plain[0] @ directions[:, k, :, None]) * directions[:, k, None] for k in range(2))
    close(without[0][keep], expected[keep], 1e-6)


def test_ablation_is_its_hooks_by_hand(loaded, family, batch):
    """At every writer too, which matters for what a block reads of itself, and for norms behind a projection."""
    directions = pairs(2).float()
    found = logits_of(loaded, batch, [Ablation(directions, EVERYWHERE, None)])
    for row in range(2):
        ids = torch.tensor([ids_of(batch, row)])
        with hooked(ablation_by_hand(loaded, family, slice(None), directions[row])):
            expected = loaded.model(input_ids=ids).logits[0]
        close(found[row, -ids.shape[1] :], expected)
        with hooked([(block, False, taken_out(directions[row])) for block in loaded.anatomy.blocks]):
            elsewhere = loaded.model(input_ids=ids).logits[0]
        assert (elsewhere - expected).abs().max() > 1e-2 * expected.std()


@pytest.mark.parametrize("degrees", [30.0, -30.0, 300.0, -300.0])
def test_rotation_keeps_the_norm_and_reaches_the_angle(loaded, batch, degrees):
    directions = random_directions(2, WIDTH, "rotation")
    keep = batch.attention_mask.bool()
    before = residual_after(loaded, batch, 1)
    with intervened(loaded, [Rotation(1, directions, torch.full((2,), degrees), EVERYWHERE, None)], None):
        turned = residual_after(loaded, batch, 1)
    close(turned.norm(dim=-1)[keep], before.norm(dim=-1)[keep], 1e-5)

    def angle(x):
        return torch.arccos((unit(x.double()) * directions[:, None]).sum(dim=-1).clamp(-1, 1)).rad2deg()

    # Turned beyond it would be past 0, or past 180, and come back up.
    torch.testing.assert_close(angle(turned)[keep], (angle(before) - degrees).clamp(0, 180)[keep], atol=0.1, rtol=0)
    for row in range(2):
        close(turned[row][keep[row]], slerp(before[row].double(), directions[row].double(), degrees)[keep[row]].float())


@pytest.mark.parametrize("off", [0.0, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_lies_on_a_direction_or_against_it_keeps_its_norm(llama, batch, sign, off):
    """Nothing but rounding lies beside it then, and no rounding may be taken for a plane to turn in."""
    here = residual_after(llama, batch, 1)[:, -1]
    beside = random_directions(2, WIDTH, "beside")
    beside = unit(beside - (beside * unit(here)).sum(dim=-1, keepdim=True) * unit(here))
    for degrees in (40.0, -40.0):
        turn = Rotation(
            1, sign * unit(here + off * here.norm(dim=-1, keepdim=True) * beside), torch.full((2,), degrees), EVERYWHERE, None
        )
        with intervened(llama, [turn], None):
            turned = residual_after(llama, batch, 1)[:, -1]
        close(turned.norm(dim=-1), here.norm(dim=-1), 1e-5)
        moved = torch.arccos((unit(turned.double()) * unit(here.double())).sum(dim=-1).clamp(-1, 1)).rad2deg()
        # Towards what it lies on, or away from what it lies against, there is no way left.
        far = 40.0 if off >= 1e-4 and sign * degrees < 0 else 0.0
        torch.testing.assert_close(moved, torch.full_like(moved, far), atol=0.6, rtol=0)


# Rows


def mixed(loaded, batch, rows):
    """One of every kind, each with `rows` different entries."""
    directions = random_directions(rows, WIDTH, "mixed")
    return [
        Addition(after(1, strong(loaded, batch, 1, rows)), Window(-2, None), None),
        Rotation(2, directions, torch.linspace(-60, 60, rows), SAID, None),
        Ablation(pairs(rows).float(), PROMPT, None),
    ]


def test_every_row_is_what_it_would_be_alone(loaded, batch):
    rows = batch.repeated(2)
    together = mixed(loaded, batch, 4)
    logits, said = logits_of(loaded, rows, together), speak(loaded, rows, together)
    for row in range(4):
        one, own = alone(rows, row), [each.rows([row]) for each in together]
        close(logits[row, -one.input_ids.shape[1] :], logits_of(loaded, one, own)[0])
        assert speak(loaded, one, own) == [said[row]]
    assert (logits[0] - logits[2])[-1].abs().max() > 1e-2 * logits.std(), "rows of one prompt do not differ"


def test_rows_and_copies_are_those_that_are_named(llama, batch):
    for each in mixed(llama, batch, 3):
        assert len(each) == 3 and len(each.repeated(2)) == 6 and len(each.rows(slice(1, None))) == 2
        texts = batch.repeated(3)
        copies = logits_of(llama, texts, [each.repeated(2)], [2] * 6)
        for row in range(6):
            picked = logits_of(llama, texts, [each.rows([row // 2] * 6)], [2] * 6)
            close(copies[row], picked[row], 1e-5)
        swapped = logits_of(llama, texts, [each.rows([2, 0, 1]).repeated(2)], [2] * 6)
        assert not torch.allclose(swapped, copies, atol=1e-3)
        assert each.rows([2, 0]).window == each.window


def test_pieces_of_a_batch_say_the_same(llama, batch):
    rows, interventions = batch.repeated(2), mixed(llama, batch, 4)
    assert replies(llama, rows, interventions, TOKENS, 3, lambda _: None) == speak(llama, rows, interventions)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_another_number_of_rows_is_refused(llama, batch, number, which):
    held = Condition(0, torch.ones(WIDTH), 0.0, held=True)
    interventions = mixed(llama, batch, number)
    chosen = [*interventions, replace(interventions[0], condition=held)][which]
    with pytest.raises(ValueError, match=f"{number} perturbations met a batch of 2 rows"):
        logits_of(llama, batch, [chosen])
    with pytest.raises(ValueError, match=f"{number} perturbations met a batch of 2 rows"):
        logits_of(llama, batch, [mixed(llama, batch, 2)[1], chosen])
    assert hooks_on(llama.model) == 0


# Conditions


def cosines(loaded, ids, layer, direction):
    return torch.nn.functional.cosine_similarity(residual_after(loaded, left_padded([""], [ids], 0), layer)[0], direction, dim=-1)


@pytest.mark.parametrize("layer", [0, 2], ids=["earlier", "at its own layer"])
def test_a_gate_opens_position_by_position(loaded, batch, layer):
    direction = random_directions(1, WIDTH, "gate")[0]
    alike = torch.cat([cosines(loaded, ids_of(batch, row), layer, direction) for row in range(2)])
    threshold, vectors = between(alike), strong(loaded, batch, 2, 2)
    interventions = [Addition(after(2, vectors), EVERYWHERE, Condition(layer, 7 * direction, threshold, held=False))]

    def edits(row):
        noted, blocks = {}, loaded.anatomy.blocks

        def note(x):
            noted["open"] = (x @ direction) / x.norm(dim=-1) >= threshold
            return x

        def add(x):
            return x + noted["open"][..., None] * vectors[row]

        return [(blocks[layer], False, note), (blocks[2], False, add)]

    check_against_hand(loaded, batch, interventions, edits)
    before = residual_after(loaded, batch, 2)
    with intervened(loaded, interventions, None):
        change = residual_after(loaded, batch, 2) - before
    keep, acted = batch.attention_mask.bool(), change.norm(dim=-1) > 0
    assert torch.equal(acted[keep], alike >= threshold)
    assert 0 < int(acted[keep].sum()) < int(keep.sum())


@pytest.mark.parametrize("window", [EVERYWHERE, SAID], ids=str)
def test_a_held_gate_lets_the_prompt_decide_for_the_reply(loaded, batch, window):
    direction, prompts = random_directions(1, WIDTH, "held")[0], [ids_of(batch, row) for row in range(2)]
    ends = torch.stack([cosines(loaded, prompt, 1, direction)[-1] for prompt in prompts])
    vectors = strong(loaded, batch, 2, 2)
    turn = Addition(after(2, vectors), window, Condition(1, direction, float(ends.mean()), held=True))

    def edits(row):
        positions = WINDOWS[window](len(prompts[row]))
        opened = ends[row] >= ends.mean()
        return [(loaded.anatomy.blocks[2], False, where(positions, lambda x: x + vectors[row]))] if opened else []

    assert (ends >= ends.mean()).sum() == 1, "one prompt opens it and one does not"
    spoken, _ = check_against_hand(loaded, batch, [turn], edits)
    closed = int(ends.argmin())
    assert spoken[closed] == speak(loaded, batch, ())[closed]
    assert spoken[1 - closed] == speak(loaded, batch, [replace(turn, condition=None)])[1 - closed]
    assert spoken[1 - closed] != speak(loaded, batch, ())[1 - closed], "the open row is not steered"


def test_a_held_gate_is_not_asked_again(llama, batch):
    """The prompt's end opens it though what is said would not, and the other way round."""
    direction = random_directions(1, WIDTH, "asked")[0]
    vectors, differs = strong(llama, batch, 2, 2), []
    for row in range(2):
        one = alone(batch, row)
        threshold = float(cosines(llama, ids_of(batch, row), 1, direction)[-1])
        for shift in (-1e-3, 1e-3):
            condition = Condition(1, direction, threshold + shift, held=True)
            gated = Addition(after(2, vectors[row, None]), SAID, condition)
            always = Addition(after(2, vectors[row, None]), SAID, None)
            assert speak(llama, one, [gated]) == speak(llama, one, [always] if shift < 0 else ())
            asked = replace(gated, condition=replace(condition, held=False))
            differs.append(speak(llama, one, [asked]) != speak(llama, one, [gated]))
    assert any(differs), "asking at every position would have given the same"


@pytest.mark.parametrize("held", [False, True])
def test_a_threshold_out_of_reach_is_always_or_never(loaded, batch, held):
    direction, plain = random_directions(1, WIDTH, "reach")[0], loaded.forward(batch)
    always = mixed(loaded, batch, 2)[:2]
    acted, said = logits_of(loaded, batch, always, [2, 1]), speak(loaded, batch, always)
    assert not torch.equal(acted, plain)

    def waiting(threshold):
        return [replace(each, condition=Condition(0, direction, threshold, held)) for each in always]

    assert torch.equal(logits_of(loaded, batch, waiting(-1.1), [2, 1]), acted)
    assert speak(loaded, batch, waiting(-1.1)) == said
    assert torch.equal(logits_of(loaded, batch, waiting(1.1), [2, 1]), plain)
    assert speak(loaded, batch, waiting(1.1)) == speak(loaded, batch, ())


def test_conditions_are_told_apart(llama, batch):
    """Two interventions of one context, each with a condition of its own, of which one holds."""
    vectors, direction = strong(llama, batch, 1, 4), random_directions(1, WIDTH, "apart")[0]
    never, ever = (Condition(1, direction, threshold, held=False) for threshold in (1.1, -1.1))
    first, second = (Addition(after(2, some), EVERYWHERE, None) for some in (vectors[:2], vectors[2:]))
    for one, other, expected in ((never, ever, second), (ever, never, first)):
        found = logits_of(llama, batch, [replace(first, condition=one), replace(second, condition=other)])
        assert torch.equal(found, logits_of(llama, batch, [expected]))


def test_a_condition_that_comes_too_late_is_refused(llama, batch):
    direction = torch.ones(WIDTH)
    vectors, directions = after(1, torch.ones(2, WIDTH)), random_directions(2, WIDTH, "late")
    inside = biases(Place(1, Site.mlp), torch.ones(2, WIDTH))
    both = Perturbations((*inside.changes, *vectors.changes))

    def waiting(layer):
        condition = Condition(layer, direction, 0.0, held=False)
        return {
            "vector": Addition(vectors, EVERYWHERE, condition),
            "rotation": Rotation(1, directions, torch.ones(2), EVERYWHERE, condition),
            "inside": Addition(inside, EVERYWHERE, condition),
            "both": Addition(both, EVERYWHERE, condition),
            "ablation": Ablation(directions[:, None], EVERYWHERE, condition),
        }

    refused = {0: {"ablation"}, 1: {"inside", "both", "ablation"}, 2: {"vector", "rotation", "inside", "both", "ablation"}}
    for layer, names in refused.items():
        for name, intervention in waiting(layer).items():
            if name in names:
                # The first one has opened its hooks when the second is refused.
                with pytest.raises(UsageError, match=f"after block {layer}, which comes after what waits"):
                    logits_of(llama, batch, [waiting(0)["vector"], intervention])
            else:
                logits_of(llama, batch, [intervention])
            assert hooks_on(llama.model) == 0


# Together


def test_the_order_of_unrelated_interventions_does_not_matter(loaded, batch):
    adding = added(after(0, strong(loaded, batch, 0, 2)))
    turning = Rotation(2, random_directions(2, WIDTH, "order"), torch.full((2,), 40.0), EVERYWHERE, None)
    both = logits_of(loaded, batch, [adding, turning])
    assert torch.equal(both, logits_of(loaded, batch, [turning, adding]))
    for one in (adding, turning):
        assert not torch.equal(both, logits_of(loaded, batch, [one]))


def test_the_order_at_one_module_does(loaded, batch):
    directions, vectors = pairs(2).float(), strong(loaded, batch, 1, 2)
    out, adding = Ablation(directions, EVERYWHERE, None), added(after(1, vectors))
    keep = batch.attention_mask.bool()

    def after_block(interventions):
        found = []
        with intervened(loaded, interventions, None), hooked([(loaded.anatomy.blocks[1], False, lambda x: found.append(x) or x)]):
            loaded.forward(batch)
        return found[0]

    first, last = after_block([adding, out]), after_block([out, adding])
    kept = (vectors[:, None] @ directions.mT) @ directions  # What of the vectors an ablation takes out.
    assert kept.norm() > 0.1 * vectors.norm()
    close((last - first)[keep], kept.expand(first.shape)[keep], 1e-4)
    assert (first @ directions.mT)[keep].abs().max() < 2e-5 * float(first[keep].norm(dim=-1).max())


def test_inner_contexts_act_later_and_restore_the_outer(loaded, batch):
    directions, adding = pairs(2).float(), added(after(1, strong(loaded, batch, 1, 2)))
    out, plain = Ablation(directions, EVERYWHERE, None), loaded.forward(batch)
    for outer, inner in ((adding, out), (out, adding), (adding, adding)):
        together, alone_outside = logits_of(loaded, batch, [outer, inner]), logits_of(loaded, batch, [outer])
        with intervened(loaded, [outer], None):
            assert torch.equal(loaded.forward(batch), alone_outside)
            assert torch.equal(logits_of(loaded, batch, [inner]), together)
            assert torch.equal(loaded.forward(batch), alone_outside)
        assert torch.equal(loaded.forward(batch), plain)
    twice = added(after(1, 2 * adding.perturbations.changes[0].bias))
    close(together, logits_of(loaded, batch, [twice]))


def test_an_error_inside_leaves_no_hook_and_no_bit_behind(loaded, batch):
    plain, before = loaded.forward(batch), hooks_on(loaded.model)
    waiting = replace(mixed(loaded, batch, 2)[0], condition=Condition(0, torch.ones(WIDTH), 0.0, held=True))
    interventions = [*mixed(loaded, batch, 2), waiting]
    with pytest.raises(FloatingPointError), intervened(loaded, interventions, None):
        assert hooks_on(loaded.model) > 3 * BLOCKS
        loaded.forward(batch)
        raise FloatingPointError
    assert hooks_on(loaded.model) == before == 0 and torch.equal(loaded.forward(batch), plain)
    # And one from inside of the model, half way through a pass.
    broken = loaded.anatomy.blocks[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(FloatingPointError("broken")))
    try:
        with pytest.raises(FloatingPointError, match="broken"):
            logits_of(loaded, batch, interventions)
    finally:
        broken.remove()
    assert hooks_on(loaded.model) == 0 and torch.equal(loaded.forward(batch), plain)


def test_every_change_is_counted_and_must_have_been_reached(loaded, batch):
    interventions = mixed(loaded, batch, 2)
    with intervened(loaded, interventions, None) as counts:
        loaded.forward(batch)
        # An addition and a rotation; an ablation before the first block, and at two projections of and after each.
        assert [count.calls for count in counts] == [1] * (1 + 1 + 1 + 3 * BLOCKS)
        loaded.forward(batch)
        assert {count.calls for count in counts} == {2}
    with pytest.raises(RuntimeError, match="never fired"), intervened(loaded, interventions, None):
        pass
    assert hooks_on(loaded.model) == 0


def test_what_was_learned_at_the_end_of_prompts_is_added_there():
    vectors = after(1, torch.ones(2, WIDTH))
    assert added(vectors).window == EVERYWHERE
    assert added(replace(vectors, last=3)).window == Window(-3, None)
    assert added(vectors).condition is None and added(vectors).first_block == 1


def test_bfloat16_is_intervened_with_as_exactly_as_it_can_hold(checkpoint, batch):
    half = load(ModelConfig(device=Device.cpu, dtype=Dtype.bfloat16), checkpoint("llama"))
    directions, plain, keep = pairs(2).float(), half.forward(batch), batch.attention_mask.bool()
    assert plain.dtype is torch.bfloat16
    nothing = [added(after(1, torch.zeros(2, WIDTH))), Rotation(1, directions[:, 0], torch.zeros(2), EVERYWHERE, None)]
    assert torch.equal(logits_of(half, batch, nothing), plain)
    before = residual_after(half, batch, 1)
    with intervened(half, [Rotation(1, directions[:, 0], torch.full((2,), 30.0), EVERYWHERE, None)], None):
        turned = residual_after(half, batch, 1)
    for row in range(2):
        close(turned[row][keep[row]], slerp(before[row], directions[row, 0], 30.0)[keep[row]], 1e-2)
    with intervened(half, [Ablation(directions, EVERYWHERE, None)], None):
        without = residual_after(half, batch, BLOCKS - 1)
    # Half a unit in the last place of each entry, by chance in either direction.
    assert (without @ directions.mT)[keep].abs().max() < 2**-8 * without[keep].norm(dim=-1).max()


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral", "olmo2"])
def test_ablation_and_windows_hold_on_further_families(loaded_family, batch, family):
    """Among them experts, one of which is shared by all tokens and given them without their rows."""
    loaded, directions = loaded_family(family), pairs(2).float()
    interventions = [Ablation(directions, Window(-2, None), None), *mixed(loaded, batch, 2)[:2]]
    said = speak(loaded, batch, interventions)
    texts = left_padded(batch.prompts, [ids_of(batch, row) + list(said[row].tokens) for row in range(2)], 0)
    lengths = [len(one.tokens) for one in said]
    forced = logits_of(loaded, texts, interventions, lengths)
    for row, length in enumerate(lengths):
        assert tuple(forced[row, -length - 1 : -1].argmax(dim=-1).tolist()) == said[row].tokens
        own = logits_of(loaded, alone(texts, row), [each.rows([row]) for each in interventions], [length])
        close(forced[row, -own.shape[1] :], own[0], 1e-3)
    with intervened(loaded, [Ablation(directions, EVERYWHERE, None)], None):
        without = residual_after(loaded, batch, BLOCKS - 1)[batch.attention_mask.bool()]
    for row in range(2):
        count = len(ids_of(batch, 0))
        own = without[:count] if row == 0 else without[count:]
        assert (own @ directions[row].T).abs().max() < 2e-5 * float(own.norm(dim=-1).max())


# Closed forms, in float64


class LinearBlock(nn.Module):
    """x + attention(x), then that + mlp(of it): affine, and every position by itself."""

    def __init__(self, width):
        super().__init__()
        self.attn, self.mlp = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class LinearModel(nn.Module):
    """Embeddings and three linear blocks; the residual stream after the last is what comes out."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.blocks = nn.ModuleList(LinearBlock(width) for _ in range(3))

    def get_decoder(self):
        return self

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


SMALL = 7


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    model = LinearModel(SMALL).double().requires_grad_(False)
    anatomy = Anatomy(
        model.blocks,
        [Writer(block.attn, block.attn) for block in model.blocks],
        [Writer(block.mlp, block.mlp) for block in model.blocks],
        SMALL,
    )
    return LoadedModel(model, None, anatomy, (), None, {})


@pytest.fixture(scope="module")
def tokens():
    return torch.arange(10).unflatten(0, (2, 5)).mul(7) % 20


def computed(linear, tokens, interventions, said):
    with intervened(linear, interventions, said):
        return linear.model(tokens)


def affine(layer, x):
    return x @ layer.weight.T + layer.bias


def chain(linear, x, first):
    """The residual stream after the last block, from that before block `first`."""
    for block in linear.model.blocks[first:]:
        x = x + affine(block.attn, x)
        x = x + affine(block.mlp, x)
    return x


def exact(value, reference):
    torch.testing.assert_close(value, reference, atol=1e-10, rtol=1e-10)


def upto(linear, tokens, end):
    x = linear.model.embed.weight[tokens]
    for block in linear.model.blocks[:end]:
        x = x + affine(block.attn, x)
        x = x + affine(block.mlp, x)
    return x


def acted(linear, tokens, name):
    """An intervention with an entry for each of two rows, and what it makes of every position in closed form."""
    directions = pairs(2, SMALL)
    vectors, degrees = 2 * directions[:, 0], torch.tensor([25.0, -70.0], dtype=torch.float64)
    x = upto(linear, tokens, 2)
    if name == "addition":
        return Addition(after(1, vectors), EVERYWHERE, None), chain(linear, x + vectors[:, None], 2)
    if name == "rotation":
        turned = torch.stack([slerp(x[row], directions[row, 1], degrees[row]) for row in range(2)])
        return Rotation(1, directions[:, 1], degrees, EVERYWHERE, None), chain(linear, turned, 2)
    if name == "low rank":
        block, rank = linear.model.blocks[2], 3
        generator = torch.Generator().manual_seed(0)
        down, up = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in ((rank, SMALL), (SMALL, rank)))
        inner = x + affine(block.attn, x)
        expected = inner + affine(block.mlp, inner) + inner @ (up @ down).mT + vectors[:, None]
        return Addition(Perturbations((Change(Place(2, Site.mlp), vectors, down, up),)), EVERYWHERE, None), expected
    rows = []
    for row in range(2):
        projector = torch.eye(SMALL, dtype=torch.float64) - directions[row].T @ directions[row]
        x = linear.model.embed.weight[tokens[row]] @ projector
        for block in linear.model.blocks:
            x = x + affine(block.attn, x) @ projector
            x = x + affine(block.mlp, x) @ projector
        rows.append(x)
    return Ablation(directions, EVERYWHERE, None), torch.stack(rows)


@pytest.mark.parametrize("name", ["addition", "rotation", "low rank", "ablation"])
def test_a_linear_model_is_intervened_with_in_closed_form(linear, tokens, name):
    intervention, expected = acted(linear, tokens, name)
    plain = chain(linear, linear.model.embed.weight[tokens], 0)
    exact(computed(linear, tokens, (), None), plain)
    exact(computed(linear, tokens, [intervention], None), expected)
    assert (expected - plain).norm(dim=-1).min() > 1e-2
    said = [3, 1]
    for window, positions in WINDOWS.items():
        acting = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, count in enumerate(said):
            acting[row, positions(tokens.shape[1] - count)] = True
        found = computed(linear, tokens, [replace(intervention, window=window)], said)
        exact(found, torch.where(acting[..., None], expected, plain))
        assert torch.equal(found[~acting], computed(linear, tokens, (), None)[~acting])


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", ["addition", "rotation", "low rank"])
def test_a_linear_model_is_intervened_with_where_a_gate_is_open(linear, tokens, name, held):
    intervention, expected = acted(linear, tokens, name)
    plain, direction = chain(linear, linear.model.embed.weight[tokens], 0), pairs(1, SMALL)[0, 1]
    x, said = upto(linear, tokens, 1), torch.tensor([3, 1])
    alike = (x @ direction) / x.norm(dim=-1)
    ends = alike.gather(1, tokens.shape[1] - 1 - said[:, None])
    threshold = float(ends.mean()) if held else between(alike)
    gate = (ends >= threshold).expand(alike.shape) if held else alike >= threshold
    waiting = replace(intervention, condition=Condition(0, 3 * direction, threshold, held))
    exact(computed(linear, tokens, [waiting], said.tolist()), torch.where(gate[..., None], expected, plain))
    assert 0 < int(gate.sum()) < gate.numel()


# Directions to ablate


def test_orthonormal_rows_span_what_they_are_made_of():
    given = random_rows(3, WIDTH, "span").float() * torch.tensor([[1e-3], [1.0], [1e3]])
    basis = orthonormal_rows(given)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-6, rtol=0)
    close(given @ basis.T @ basis, given, 1e-5)


@pytest.mark.parametrize("spoiled", ["zero", "nan", "mixture", "too many"])
def test_directions_that_span_less_than_they_are_are_refused(spoiled):
    given = random_rows(3, 4, "spoiled").float()
    match spoiled:
        case "zero":
            given[1] = 0
        case "nan":
            given[1, 2] = float("nan")
        case "mixture":
            given[2] = 2 * given[0] - given[1]
        case "too many":
            given = random_rows(5, 4, "spoiled").float()
    with pytest.raises(UsageError, match="none a mixture of the others"):
        orthonormal_rows(given)
