"""Keys and values that grow in place."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE = 8
"""Positions for which room is taken ahead. With much more, gaps between the rows slow down every reading of them."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one block, with some room for those that are to come.

    The usual layer is copied at every token, which takes longer than the attention itself where many rows are generated at
    once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stores: Sequence[Tensor] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *_args: object, **_named: object) -> tuple[Tensor, Tensor]:
        """Write the states of new positions, each [R, H, T, d], behind those that are there, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if not self._stores or end > self._stores[0].shape[2]:
            grown = [_room_for(end + SPARE, states, len(states)) for states in (key_states, value_states)]
            for new, old in zip(grown, self._stores, strict=False):
                new[:, :, :begin] = old[:, :, :begin]
            self._stores = grown
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, begin:end] = states
        self.keys, self.values = (store[:, :, :end] for store in self._stores)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows that `indices` names, some of them perhaps several times."""
        if self._stores:
            length = self.get_seq_length()
            selected = [_room_for(length + SPARE, store, len(indices)) for store in self._stores]
            for new, old in zip(selected, self._stores, strict=True):
                torch.index_select(old[:, :, :length], 0, indices, out=new[:, :, :length])
            self._stores = selected
            self.keys, self.values = (store[:, :, :length] for store in selected)


def _room_for(positions: int, states: Tensor, rows: int) -> Tensor:
    return states.new_empty(rows, states.shape[1], positions, states.shape[3])


def roomy_cache(config: PreTrainedConfig, longest: int) -> Cache:
    """Return an empty cache of the model's own kind for so many positions at most, the layers of which grow in place."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    # A layer with a window that is never filled forgets nothing, and is like any other; each other kind stays what it is.
    plain = [
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and longest <= layer.sliding_window)
        for layer in cache.layers
    ]
    cache.layers = [RoomyLayer() if like else layer for like, layer in zip(plain, cache.layers, strict=True)]
    return cache
