"""Keys and values that grow in place."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one block, with room for those that are to come.

    The usual layer is copied at every token, which takes longer than the attention itself where many rows are generated at
    once.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._stores: Sequence[Tensor] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *_args: object, **_named: object) -> tuple[Tensor, Tensor]:
        """Write the states of new positions, each [R, H, T, d], behind those that are there, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stores = [_room_for(self._room, states, len(states)) for states in (key_states, value_states)]
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, begin:end] = states
        self.keys, self.values = (store[:, :, :end] for store in self._stores)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows that `indices` names, some of them perhaps several times."""
        length = self.get_seq_length()
        selected = []
        for store in self._stores:
            selected.append(_room_for(self._room, store, len(indices)))
            torch.index_select(store[:, :, :length], 0, indices, out=selected[-1][:, :, :length])
        self._stores = selected
        if selected:
            self.keys, self.values = (store[:, :, :length] for store in selected)


def _room_for(positions: int, states: Tensor, rows: int) -> Tensor:
    return states.new_empty(rows, states.shape[1], positions, states.shape[3])


def roomy_cache(config: PreTrainedConfig, room: int) -> Cache:
    """Return an empty cache of the model's own kind in which so many positions fit without being copied."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    # A layer with a window that is never filled forgets nothing, and is like any other; each other kind stays what it is.
    plain = [
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and room <= layer.sliding_window)
        for layer in cache.layers
    ]
    cache.layers = [RoomyLayer(room) if like else layer for like, layer in zip(plain, cache.layers, strict=True)]
    return cache
