"""The self-test passes on every family and refuses a model that is not what the tool takes it for."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import KINDS, alone, kind, part_and_space, slice_between

from discover.choices import Target
from discover.errors import UsageError
from discover.model.anatomy import Place, Site, anatomy
from discover.model.hooks import hidden
from discover.perturb.spaces import VectorSpace
from discover.steer.selftest import self_test

SOURCE, TARGET = 1, 3


def self_tested(loaded, batch, part):
    space = VectorSpace(Place(SOURCE, Site.residual), part.width)
    return self_test(loaded, batch, batch, part, space, TARGET, Target.residual)


def checked(loaded, batch):
    return self_tested(loaded, batch, slice_between(loaded, batch, SOURCE, TARGET))


@contextmanager
def sabotaged(module, change):
    """While open, `module` returns `change(residual)`."""
    handle = module.register_forward_hook(
        lambda _module, _inputs, output: (
            (change(hidden(output)), *output[1:]) if isinstance(output, tuple) else change(hidden(output))
        )
    )
    try:
        yield
    finally:
        handle.remove()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_passes(loaded, batch):
    found = checked(loaded, batch)
    assert found.tolerance == 1e-3
    for name in ("zero", "slice", "row", "cache"):
        assert 0 <= getattr(found, name) < 1e-4, name


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("name", KINDS)
def test_passes_for_every_kind_and_target_into_the_reply(llama, batch, name, target):
    longer = batch.continued([[40, 41, 42], [43]], llama.tokenizer.pad_token_id)
    part, space = part_and_space(llama, longer, kind(name, target=target), SOURCE, TARGET)
    found = self_test(llama, batch, longer, part, space, TARGET, target)
    assert max(found.zero, found.slice, found.row, found.cache) < 1e-4


def test_passes_in_bfloat16(loaded, batch):
    model = copy.deepcopy(loaded.model).bfloat16()
    assert checked(replace(loaded, model=model, anatomy=anatomy(model, None)), batch).tolerance == 0.1


def refused(loaded, batch, module, change, told):
    checked(loaded, batch)
    with sabotaged(module, change), pytest.raises(UsageError, match=told):
        checked(loaded, batch)
    checked(loaded, batch)


def test_refuses_a_block_that_ignores_its_input(llama, batch):
    def constant(residual):
        return noise(residual.shape[-1]).expand_as(residual)

    refused(llama, batch, llama.anatomy.blocks[2], constant, "a random perturbation of block 1 changes nothing after block 3")


def test_refuses_noise_that_differs_by_row_of_the_batch(llama, batch):
    """The first row gets none of it: a test of the first row alone would see nothing."""

    def by_row(residual):
        return residual + torch.arange(len(residual))[:, None, None] * noise(*residual.shape[1:])

    refused(llama, batch, llama.anatomy.blocks[2], by_row, "row differs by")


def test_refuses_noise_that_differs_by_column(llama, batch):
    """Columns count the padding, so only a padded row shows it."""
    refused(
        llama, batch, llama.anatomy.blocks[0], lambda residual: residual + noise(200, 1)[: residual.shape[1]], "row differs by"
    )


def test_refuses_a_block_with_a_memory_of_its_own(llama, batch):
    calls = []

    def drifting(residual):
        calls.append(1)
        return residual * (1 + 0.1 * len(calls))

    refused(llama, batch, llama.anatomy.blocks[2], drifting, "zero differs by")


def test_refuses_a_cache_that_changes_the_next_token(llama, batch):
    """A step of cached generation sees one position; uncached reading sees them all."""

    def turned(residual):
        return -residual if residual.shape[1] == 1 else residual

    refused(llama, batch, llama.anatomy.blocks[2], turned, "cache differs by")


class _OffAtTheEnd(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, residual, *args, **kwargs):
        output = hidden(self.block(residual, *args, **kwargs)).clone()
        output[:, -1] *= 1.5
        return output


def test_a_huge_first_token_does_not_hide_a_wrong_last_one(llama, batch):
    """Language models do have first tokens of a thousand times the norm of the others."""
    batch = alone(batch, 0)

    def huge(residual):
        first = torch.ones(residual.shape[1], 1)
        first[0] = 1e5
        return residual * first if len(first) > 1 else residual  # A cached step holds a later token.

    with sabotaged(llama.anatomy.blocks[0], huge):
        part = slice_between(llama, batch, SOURCE, TARGET)
        self_tested(llama, batch, part)
        wrong = replace(part, blocks=(*part.blocks[:-1], _OffAtTheEnd(part.blocks[-1])))
        with pytest.raises(UsageError, match="zero differs by"):
            self_tested(llama, batch, wrong)
