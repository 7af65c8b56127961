"""A change of every kind does in a slice what it does in the whole model, in hooks written by hand, and in stock PEFT."""

import copy
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from conftest import BLOCKS, WIDTH
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch.utils._python_dispatch import TorchDispatchMode
from toys import KINDS, after, alone, kind, part_and_space
from transformers.pytorch_utils import Conv1D

from discover.choices import Target
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations, biases, joined, mixed
from discover.model.hooks import answering, hidden, narrowed
from discover.model.slice import model_slice, read_at
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_directions
from discover.steer.interventions import added, intervened

LOW_RANK = [name for name in KINDS if "rank" in name or "factor" in name]
LAYERS = [(0, 2), (1, BLOCKS - 1)]


def edit_by_hand(change):
    """A hook that changes row i of a module's output by its own bias, down and up, one row after the other."""

    def hook(_module, inputs, output):
        rows = [
            one + bias + (given @ down.T) @ up.T if down.numel() else one + bias
            for given, one, bias, down, up in zip(inputs[0], hidden(output), change.bias, change.down, change.up, strict=True)
        ]
        return (torch.stack(rows), *output[1:]) if isinstance(output, tuple) else torch.stack(rows)

    return hook


def read_by_hand(loaded, batch, target_layer, target, perturbations):
    """What is read at a target of the whole model, through hooks that share nothing with the tool's."""
    seen = []
    with ExitStack() as stack, torch.no_grad():
        for change in perturbations.changes:
            module = loaded.anatomy.module(change.place)
            stack.callback(module.register_forward_hook(edit_by_hand(change)).remove)
        block = loaded.anatomy.blocks[target_layer]
        module = block if target is Target.residual else loaded.anatomy.module(Place(target_layer, Site.attention))
        stack.callback(module.register_forward_hook(lambda _m, _i, output: seen.append(hidden(output))).remove)
        output = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    return output.logits if target is Target.logits else seen[0]


def close(value, reference):
    torch.testing.assert_close(value, reference, atol=1e-4 * float(reference.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("target", [*LAYERS, "attention", "logits"], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_a_slice_is_the_whole_model(loaded, batch, name, target):
    read = Target[target] if isinstance(target, str) else Target.residual
    source, last = LAYERS[1] if isinstance(target, str) else target
    config = kind(name, target=read)
    part, space = part_and_space(loaded, batch, config, source, last)
    some = space.sized(3).perturbations(drawn(space.sized(3), 3, "slice"), 1.5 * part.residual_norm)
    keep, tokens = batch.attention_mask.bool(), batch.input_ids.shape[1]
    assert not keep.all(), "the batch is padded"
    with torch.no_grad():
        sliced = part.steered(some, 0, tokens)
        nothing = part.steered(some.scaled(0.0), 0, tokens)
        with intervened(loaded, [added(some.repeated(2))], None):
            whole = read_at(loaded, batch.repeated(3), last, read).unflatten(0, (3, 2))
        by_hand = read_by_hand(loaded, batch.repeated(3), last, read, some.repeated(2)).unflatten(0, (3, 2))
        unsteered = read_by_hand(loaded, batch, last, read, some.repeated(2).rows(slice(0, 2)).scaled(0.0))
        columns = [part.steered(some, column, column + 1)[:, :, 0] for column in (tokens - 1, tokens // 2)]
    for other in (whole, by_hand):
        close(sliced[:, keep], other[:, keep])
    close(nothing[:, keep], unsteered[keep].expand(3, -1, -1))
    close(part.target[keep], unsteered[keep])
    for column, found in zip((tokens - 1, tokens // 2), columns, strict=True):
        close(found[:, keep[:, column]], sliced[:, keep[:, column], column])
    # Were nothing to arrive, everything above would hold all the same; and each perturbation is another one.
    for one, other in ((sliced, nothing), (sliced, sliced.roll(1, 0))):
        assert ((one - other)[:, keep].norm(dim=-1) > 0.02 * other[:, keep].norm(dim=-1)).float().mean() > 0.5


def in_stock_peft(loaded, family, one):
    """The model under a single perturbation as adapters of the PEFT library, which knows nothing of this tool."""
    names = {module: path for path, module in loaded.model.named_modules()}
    paths = [names[loaded.anatomy.module(change.place)] for change in one.changes]
    rank = len(one.changes[0].down[0])
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=paths, fan_in_fan_out=family == "gpt2", init_lora_weights=False
    )
    stock = LoraModel(copy.deepcopy(loaded.model), config, "default").eval()
    adapted = {path: module for path, module in stock.model.named_modules() if hasattr(module, "lora_A")}
    assert sorted(adapted) == sorted(paths)
    with torch.no_grad():
        for path, change in zip(paths, one.changes, strict=True):
            assert isinstance(adapted[path].base_layer, Conv1D) == (family == "gpt2")
            adapted[path].lora_A["default"].weight.copy_(change.down[0])
            # The library scales by alpha / r, which is 2 here.
            adapted[path].lora_B["default"].weight.copy_(change.up[0] / 2)
    return stock


@pytest.mark.parametrize("name", LOW_RANK)
def test_stock_peft_replays_it(loaded, family, batch, name):
    part, space = part_and_space(loaded, batch, kind(name), 1, 3)
    some = space.perturbations(drawn(space, 2, "peft"), 2 * part.residual_norm)
    one = some.rows([1])
    stock = in_stock_peft(loaded, family, one)
    with torch.no_grad():
        words = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
        expected = stock(**words).logits
        plain = loaded.model(**words).logits
        with intervened(loaded, [added(one.repeated(2))], None):
            found = loaded.model(**words).logits
    keep = batch.attention_mask.bool()
    close(found[keep], expected[keep])
    assert (found - plain)[keep].norm() > 0.05 * plain[keep].norm()


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_slice_changes_an_expert_that_all_tokens_share(loaded_family, batch, name):
    """It is given them without their rows, and a gate follows: every row of the slice is the model as stock PEFT changes it."""
    loaded = loaded_family("qwen2_moe")
    part, space = part_and_space(loaded, batch, kind(name), 1, 3)
    some = space.perturbations(drawn(space, 3, "shared"), 2 * part.residual_norm)
    keep, tokens = batch.attention_mask.bool(), batch.input_ids.shape[1]
    assert all(len(given) == keep.sum() for given in space.inputs)
    with torch.no_grad():
        sliced, last = part.steered(some, 0, tokens), part.steered(some, tokens - 1, tokens)
        for row in range(3):
            stock = in_stock_peft(loaded, "qwen2_moe", some.rows([row])).model
            seen = []
            stock.model.layers[3].register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(hidden(output)))
            stock(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
            close(sliced[row][keep], seen[0][keep])
            close(last[row][:, 0], seen[0][:, -1])
    assert ((sliced - part.target)[:, keep].norm(dim=-1) > 0.02 * part.target[keep].norm(dim=-1)).float().mean() > 0.5


def test_a_bias_is_added_to_an_expert_that_all_tokens_share(loaded_family, batch):
    loaded = loaded_family("qwen2_moe")
    part, space = part_and_space(loaded, batch, kind("bias"), 1, 3)
    vectors, keep = 2 * part.residual_norm * drawn(space, 3, "shared"), batch.attention_mask.bool()
    with torch.no_grad():
        sliced = part.steered(biases(space.place, vectors), 0, len(keep[0]))
        for row in range(3):
            expert = loaded.model.model.layers[1].mlp.shared_expert.down_proj
            handle = expert.register_forward_hook(lambda _m, _i, output, row=row: output + vectors[row])
            close(sliced[row][keep], read_at(loaded, batch, 3, Target.residual)[keep])
            handle.remove()


@pytest.mark.parametrize("name", ["bias", "adapter of rank 3", "factor on mlp", "head"])
def test_a_slice_leaves_nothing_behind(llama, batch, name):
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    some = space.sized(2).perturbations(drawn(space.sized(2), 2, "left"), part.residual_norm)
    before = llama.forward(batch)

    def held():
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) + ("forward" in vars(one)) for one in modules)

    modules = list(llama.model.modules())
    count = held()
    part.steered(some, 2, 3)
    assert held() == count
    broken = llama.anatomy.blocks[3].mlp.register_forward_hook(lambda *_: (_ for _ in ()).throw(FloatingPointError("broken")))
    try:
        with pytest.raises(FloatingPointError, match="broken"):
            part.steered(some, 2, 3)
    finally:
        broken.remove()
    assert held() == count and torch.equal(llama.forward(batch), before)


def test_several_places_are_told_apart(llama, batch):
    """Changes of both projections of one block and of a later block's output, which no kind has, replay as well."""
    places = [Place(1, Site.attention), Place(1, Site.mlp), Place(2, Site.residual)]
    part = model_slice(llama, batch, places, 3, Target.residual, 0)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    low_rank = [Change(place, draw(2, WIDTH), draw(2, 1, width), draw(2, WIDTH, 1)) for place, width in zip(places, (WIDTH, 48))]
    some = Perturbations((*low_rank, *after(2, draw(2, WIDTH)).changes))
    keep = batch.attention_mask.bool()
    with torch.no_grad():
        sliced = part.steered(some, 0, len(keep[0]))
    by_hand = read_by_hand(llama, batch.repeated(2), 3, Target.residual, some.repeated(2)).unflatten(0, (2, 2))
    close(sliced[:, keep], by_hand[:, keep])
    assert some.at(places[1]) is some.changes[1] and some.at(Place(3, Site.mlp)) is None


def test_rows_copies_and_multiples_are_those_of_the_weights():
    place, generator = Place(0, Site.mlp), torch.Generator().manual_seed(0)
    some = Perturbations((Change(place, *(torch.randn(3, *shape, generator=generator) for shape in ((4,), (2, 5), (4, 2)))),))
    inputs = torch.randn(3, 6, 5, generator=generator).double()

    def added(perturbations, given):
        change = perturbations.mapped(lambda tensor: tensor.double()).changes[0]
        return change.onto(torch.zeros(len(given), 6, 4).double(), given, shared=False)

    plain = added(some, inputs)
    for row, (bias, down, up) in enumerate(zip(*(getattr(some.changes[0], part).double() for part in ("bias", "down", "up")))):
        torch.testing.assert_close(plain[row], bias + inputs[row] @ (up @ down).T)
    torch.testing.assert_close(added(some.scaled(-2.0), inputs), -2 * plain)
    torch.testing.assert_close(added(some.rows([2, 0]), inputs[[2, 0]]), plain[[2, 0]])
    torch.testing.assert_close(added(some.repeated(2), inputs.repeat_interleave(2, 0)), plain.repeat_interleave(2, 0))
    both = joined(some, some.scaled(-1.0))
    assert len(both) == 6
    torch.testing.assert_close(added(both, inputs.repeat(2, 1, 1)), torch.cat([plain, -plain]))


def put_out(loaded, batch, given, perturbations):
    """What each changed module puts out, by the real hooks, for what it is given in the model left alone."""
    found = {}
    with torch.no_grad(), intervened(loaded, [added(perturbations.repeated(len(batch.prompts)))], None):
        for change in perturbations.changes:
            inputs, named = given[change.place]
            found[change.place] = hidden(loaded.anatomy.module(change.place)(*inputs, **named))
    return found


def given_in(loaded, batch, places):
    """The arguments of the modules at these places in an unsteered pass."""
    found = {}
    with ExitStack() as stack, torch.no_grad():
        for place in places:

            def keep(_module, inputs, named, place=place):
                found[place] = (inputs, named)

            stack.callback(loaded.anatomy.module(place).register_forward_pre_hook(keep, with_kwargs=True).remove)
        loaded.forward(batch)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_mixture_does_what_its_parts_do_together(loaded, batch, name):
    part, space = part_and_space(loaded, batch, kind(name), 1, 3)
    some = space.sized(5).perturbations(drawn(space.sized(5), 5, "mixture"), 1.5 * part.residual_norm)
    given = given_in(loaded, batch, [change.place for change in some.changes])
    multipliers = {3: 2.0, 1: -1.0, 0: 0.25, 4: 0.0}
    mixture = mixed(some, multipliers)
    rank = some.changes[0].down.shape[1]
    assert len(mixture) == 1 and mixture.changes[0].down.shape[1] == 3 * rank
    plain = put_out(loaded, batch, given, mixed(some, {}))
    alone = {entry: put_out(loaded, batch, given, some.rows([entry])) for entry in multipliers}
    together = put_out(loaded, batch, given, mixture)
    nothing = put_out(loaded, batch, given, mixed(some, {2: 0.0}))
    as_it_is = put_out(loaded, batch, given, mixed(some, {3: 1.0}))
    keep = batch.attention_mask.bool()
    for place, before in plain.items():
        effects = {entry: (alone[entry][place] - before)[keep] for entry in multipliers}
        wanted = sum(multiplier * effects[entry] for entry, multiplier in multipliers.items())
        scale = float(sum(abs(m) * effects[entry].abs().max() for entry, m in multipliers.items())) + float(
            before[keep].abs().max()
        )
        torch.testing.assert_close((together[place] - before)[keep], wanted, atol=1e-5 * scale, rtol=0)
        assert torch.equal(nothing[place], before) and torch.equal(as_it_is[place], alone[3][place])
        assert wanted.norm() > 0.5 * effects[3].norm(), "the parts do not cancel, so that there is something to be wrong about"


def test_a_mixture_keeps_where_its_parts_act_and_names_what_there_is():
    some = replace(after(1, torch.eye(3)), last=2)
    assert mixed(some, {2: 1.5, 0: -1.0}).last == 2
    assert mixed(some, {2: 1.5, 0: -1.0}).changes[0].bias.tolist() == [[-1.0, 0.0, 1.5]]
    for entry in (3, -1):
        with pytest.raises(UsageError, match=f"There is no vector {entry} in this bank; it holds vectors 0 to 2"):
            mixed(some, {0: 1.0, entry: 0.0})


def test_what_is_shared_by_all_equals_copies_of_it():
    generator = torch.Generator().manual_seed(0)
    change = Change(Place(0, Site.mlp), *(torch.randn(3, *shape, generator=generator) for shape in ((4,), (2, 5), (4, 2))))
    output, inputs = torch.randn(2, 6, 4, generator=generator), torch.randn(2, 6, 5, generator=generator)
    copies = change.onto(output.repeat(3, 1, 1), inputs.repeat(3, 1, 1), shared=False)
    torch.testing.assert_close(change.onto(output, inputs, shared=True), copies)
    assert copies.shape == (6, 6, 4)


@pytest.mark.parametrize("start,end", [(0, 4), (3, 4), (1, 3)])
def test_a_narrowed_module_computes_what_is_read_and_nothing_else(start, end):
    module, given = torch.nn.Linear(3, 2), torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    sizes, whole = [], module(given)
    counting = module.register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0].shape[1]))
    with narrowed(module, start, end):
        found = module(given)
    counting.remove()
    assert sizes == [end - start] and found.shape == whole.shape
    torch.testing.assert_close(found[:, start:end], whole[:, start:end])
    assert found[:, :start].abs().sum() == found[:, end:].abs().sum() == 0
    assert torch.equal(module(given), whole)


def test_an_answering_module_does_not_run_and_runs_again_after_an_error():
    module = torch.nn.Linear(3, 2)
    given, ran = torch.ones(1, 3), []
    plain, said = module(given), torch.zeros(1, 2)
    handle = module.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(FloatingPointError), answering(module, said):
        assert module(given) is said
        raise FloatingPointError
    assert torch.equal(module(given), plain) and len(ran) == 2
    handle.remove()


def test_logits_are_read_after_the_last_block_alone(llama, batch):
    with pytest.raises(UsageError, match=rf"search\.target=logits .* give search\.target_layer={BLOCKS - 1}, not 2"):
        model_slice(llama, batch, [Place(0, Site.residual)], 2, Target.logits, 0)


def test_a_band_that_reaches_the_target_is_refused(llama, batch):
    told = r"source layer 1 \(and changes up to block 2, by search.band\) and target layer 2 do not fit"
    with pytest.raises(UsageError, match=told):
        part_and_space(llama, batch, kind("factor on mlp"), 1, 2)


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_perturbing_the_end_of_the_prompt_alone_shares_what_lies_before(loaded, batch, name, prompts):
    """The slice computes two positions after a cache of the others; the whole model is perturbed at these two positions."""
    batch = batch if prompts == 2 else alone(batch, 0)
    last, length = 2, batch.input_ids.shape[1]
    part, space = part_and_space(loaded, batch, kind(name, steered_positions=last, vectors=3), 1, 3)
    some = replace(space.perturbations(drawn(space, 3, "end"), 5.0), last=last)
    with torch.no_grad():
        sliced = part.steered(some, length - last, length)
        assert torch.equal(part.steered(some, length - last, length), sliced), "nothing was written to what is shared"
        plain = read_at(loaded, batch, 3, Target.residual)
    with intervened(loaded, [added(some.repeated(prompts))], None):
        whole = read_at(loaded, batch.repeated(3), 3, Target.residual).unflatten(0, (3, prompts))
    keep = batch.attention_mask.bool()
    scale = float(plain[keep].abs().max())
    torch.testing.assert_close(sliced, whole[:, :, -last:], rtol=1e-3, atol=1e-4 * scale)
    before = keep[:, :-last]
    torch.testing.assert_close(whole[0, :, :-last][before], plain[:, :-last][before], rtol=1e-4, atol=1e-5 * scale)
    assert ((whole - plain)[:, :, -last:].norm(dim=-1) > 1e-3 * scale).all()


class Repeats(TorchDispatchMode):
    """Counts how often an operation fills a tensor with copies, or picks rows of one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name in ("aten::repeat", "aten::index", "aten::index_select")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("skipped", [False, True])
def test_what_blocks_share_is_repeated_once(llama, batch, skipped):
    """Twice as many blocks ask for no more copies, and the keys and values of one prompt's beginning for none."""
    batch, counts = alone(batch, 0), []
    length = batch.input_ids.shape[1]
    for target in (1, 3):
        part, space = part_and_space(llama, batch, kind("vector", steered_positions=2 * skipped), 0, target)
        some = space.perturbations(drawn(space, 3, "once"), 5.0)
        with torch.no_grad(), Repeats() as seen:
            part.steered(some, length - 1, length)
        counts.append(seen.count)
    assert counts[0] == counts[1] <= 5


def test_what_is_said_after_the_prompt_is_perturbed_as_well(llama, batch):
    """Three positions come after the first prompt, one after the second: these and the last two of each are perturbed."""
    vectors = 5 * random_directions(2, WIDTH, "said")
    some = replace(biases(Place(1, Site.residual), vectors), last=2)
    plain = read_at(llama, batch, 1, Target.residual)
    with intervened(llama, [added(some)], [3, 1]):
        change = read_at(llama, batch, 1, Target.residual) - plain
    length = batch.input_ids.shape[1]
    for row, reach in enumerate((5, 3)):
        expected = torch.zeros(length, WIDTH)
        expected[-reach:] = vectors[row]
        torch.testing.assert_close(change[row], expected, atol=1e-4, rtol=0)
