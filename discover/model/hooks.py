"""Pure forward hooks: they return a new tensor, are removed on any exit, and must have fired."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


@dataclass
class HookCount:
    """How often a hook has fired since its context was opened."""

    calls: int = 0


def hidden(output: Any) -> Tensor:
    """Return the hidden states of a module's output, which is a tensor or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def edited_output(module: nn.Module, edit: Edit) -> Iterator[HookCount]:
    """While open, `module` returns `edit(hidden)` in place of its hidden states; the rest of a tuple is kept.

    Raises:
        RuntimeError: the context closed without an exception and the hook had never fired.
    """
    count = HookCount()

    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        # Counted before the edit: one that raises has been reached all the same.
        count.calls += 1
        changed = edit(hidden(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()
    # After the `finally`, so that an error inside the context is told and not hidden by this one.
    if count.calls == 0:
        raise RuntimeError(f"a hook on {type(module).__name__} never fired; the module was not part of the forward pass")
