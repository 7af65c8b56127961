"""Pure forward hooks: they return a new tensor, are removed on any exit, and must have fired."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor | None, Tensor], Tensor]
"""What a module is given (its first argument by place) and what it puts out -> what it shall put out."""


@dataclass
class HookCount:
    """How often a hook has fired since its context was opened."""

    calls: int = 0


def hidden(output: Any) -> Tensor:
    """Return the hidden states of a module's output, which is a tensor or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, changed: Tensor) -> Any:
    """Return a module's output with other hidden states; the rest of a tuple is kept."""
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


@contextmanager
def edited_output(module: nn.Module, edit: Edit) -> Iterator[HookCount]:
    """While open, `module` returns what `edit` makes of its hidden states; the rest of a tuple is kept.

    Raises:
        RuntimeError: the context closed without an exception and the hook had never fired.
    """
    count = HookCount()

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        # Counted before the edit: one that raises has been reached all the same.
        count.calls += 1
        return with_hidden(output, edit(inputs[0] if inputs else None, hidden(output)))

    handle = module.register_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()
    _check_fired(count, module)


@contextmanager
def edited_input(module: nn.Module, edit: Edit) -> Iterator[HookCount]:
    """While open, `module` is given what `edit` makes of the hidden states that it would be given.

    Raises:
        RuntimeError: the context closed without an exception and the hook had never fired.
    """
    count = HookCount()

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        count.calls += 1
        if "hidden_states" in named:
            return inputs, {**named, "hidden_states": edit(None, named["hidden_states"])}
        return (edit(None, inputs[0]), *inputs[1:]), named

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()
    _check_fired(count, module)


@contextmanager
def watched_output(module: nn.Module, look: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, `look` is shown the hidden states that `module` puts out."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: look(hidden(output)))
    try:
        yield
    finally:
        handle.remove()


def _check_fired(count: HookCount, module: nn.Module) -> None:
    # After the `finally` of a context, so that an error inside it is told and not hidden by this one.
    if count.calls == 0:
        raise RuntimeError(f"a hook on {type(module).__name__} never fired; the module was not part of the forward pass")


@contextmanager
def answering(module: nn.Module, output: Any) -> Iterator[None]:
    """While open, `module` computes nothing and returns `output`."""
    # No hook can keep a module from running; an attribute of the instance stands before the method of its class.
    own = module.__dict__.get("forward")
    module.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def contiguous_input(module: nn.Module) -> Iterator[None]:
    """While open, `module` is given its first argument in one block of memory."""
    # `contiguous` would leave what has one row as it is, strides included, and it is by strides that torch chooses a product.
    handle = module.register_forward_pre_hook(
        lambda _module, inputs: (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:]) if inputs else None
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def narrowed(module: nn.Module, start: int, end: int) -> Iterator[None]:
    """While open, `module` is given the positions `start` to `end` alone and returns zeros at the others.

    It must treat every position by itself, as projections and MLPs do.
    """

    def narrow(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        length.append(inputs[0].shape[1])
        # Products over a strided slice would be computed row by row.
        return (inputs[0][:, start:end].contiguous(), *inputs[1:])

    def widen(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        return with_hidden(output, nn.functional.pad(hidden(output), (0, 0, start, length.pop() - end)))

    length: list[int] = []
    handles = (module.register_forward_pre_hook(narrow), module.register_forward_hook(widen))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
