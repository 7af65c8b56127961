"""The parts that are found are the very modules that write to the residual stream."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from conftest import BLOCKS, WIDTH

from discover.errors import UsageError
from discover.model.anatomy import Place, Site, anatomy
from discover.model.hooks import hidden

PARTS = {
    "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
    "mistral": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
    "gemma2": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
}


def test_finds_the_very_modules(loaded, family):
    path, attention, mlp = PARTS[family]
    blocks = loaded.model.get_submodule(path)
    assert loaded.anatomy.blocks is blocks
    assert len(blocks) == BLOCKS and loaded.anatomy.width == WIDTH
    for number, block in enumerate(blocks):
        for site, name in ((Site.attention, attention), (Site.mlp, mlp)):
            place = Place(number, site)
            assert loaded.anatomy.module(place) is loaded.anatomy.writer(place).projection is block.get_submodule(name)
            assert loaded.anatomy.writer(place).whole is block.get_submodule(name.split(".")[0])
        assert loaded.anatomy.module(Place(number, Site.residual)) is block
        assert loaded.anatomy.writer(Place(number, Site.residual)) is None


def test_a_block_without_a_projection_is_refused_by_name(llama):
    blocks = torch.nn.ModuleList(torch.nn.ModuleDict({"self_attn": block.self_attn}) for block in llama.anatomy.blocks)
    bare = anatomy(SimpleNamespace(config=llama.model.config, named_modules=lambda: [("blocks", blocks)]), "blocks")
    assert bare.module(Place(2, Site.attention)) is llama.anatomy.module(Place(2, Site.attention))
    with pytest.raises(UsageError, match=r"Block 2 of this model has no mlp output projection .* search\.perturbation=vector"):
        bare.module(Place(2, Site.mlp))


def test_a_block_adds_what_both_projections_write(loaded, family, batch):
    """True of pre-norm families; Gemma 2 normalises both outputs first, and there it must not hold."""
    parts = loaded.anatomy
    for layer, block in enumerate(parts.blocks):
        seen = {}

        def keep(module, inputs, output, seen=seen):
            seen[module] = hidden(output)

        def keep_input(module, args, kwargs, seen=seen):
            seen["input"] = kwargs.get("hidden_states", args[0] if args else None)

        attention, mlp = (parts.module(Place(layer, site)) for site in (Site.attention, Site.mlp))
        with ExitStack() as stack, torch.no_grad():
            for module in (block, attention, mlp):
                stack.callback(module.register_forward_hook(keep).remove)
            stack.callback(block.register_forward_pre_hook(keep_input, with_kwargs=True).remove)
            loaded.forward(batch)
        added = seen[block] - seen["input"]
        assert added.norm() > 0.1 * seen["input"].norm()
        agree = torch.allclose(added, seen[attention] + seen[mlp], atol=1e-4)
        assert agree == (family != "gemma2")


def test_a_named_path_wins_and_a_wrong_one_names_the_candidates(llama):
    assert anatomy(llama.model, "model.layers").blocks is llama.model.model.layers
    for wrong in ("model.blocks", "model.embed_tokens"):
        with pytest.raises(UsageError, match=rf"blocks_path={wrong} names no list.*model\.layers"):
            anatomy(llama.model, wrong)


def test_two_lists_of_the_same_length_are_not_guessed_between(loaded_family):
    model = loaded_family("gpt2").model
    model.transformer.shadow = torch.nn.ModuleList(torch.nn.Identity() for _ in range(BLOCKS))
    try:
        with pytest.raises(UsageError, match=r"h, shadow; name the right one with model.blocks_path"):
            anatomy(model, None)
        assert anatomy(model, "transformer.h").blocks is model.transformer.h
    finally:
        del model.transformer.shadow
