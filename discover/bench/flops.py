"""How many floating-point operations a slice needs, counted from shapes, and how many the machine does in a second."""

import time
from collections.abc import Callable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from discover.model.anatomy import Place, Site
from discover.model.loading import LoadedModel
from discover.model.slice import ModelSlice

SQUARES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192)}
"""Sizes of the square products that stand for what the machine can do, the smallest first."""


def forward_flops(loaded: LoadedModel, part: ModelSlice, target_layer: int, copies: int, read: int) -> tuple[int, int]:
    """Return the operations of one pass forward of N perturbations: those of linear maps, and those of attention.

    A linear map F -> G over M positions needs 2 M F G, and the attention of H heads of width d over T positions 4 T^2 H d
    (scores, and values under them; the masked half is counted, for the usual kernels compute it). M is T for every map of
    every block but for what follows attention in the last one, its output projection and its MLP: there only the positions
    that are read are needed. Norms, activations and rotations are left out; so is what is known beforehand (`part.known`).

    Args:
        loaded: the model.
        part: a slice of it.
        target_layer: its last block.
        copies: N.
        read: positions that are read.
    """
    rows, tokens = copies * part.source.shape[0], part.source.shape[1]
    known = {module for entry in part.known for module in entry.module.modules()}
    narrow = {module for entry in part.pointwise for module in entry.modules()}
    linear = attention = 0
    for number, block in enumerate(part.blocks):
        for module in block.modules():
            if module not in known and isinstance(module, nn.Linear | Conv1D):
                linear += 2 * rows * (read if module in narrow else tokens) * module.get_parameter("weight").numel()
        writer = loaded.anatomy.writer(Place(target_layer + 1 - len(part.blocks) + number, Site.attention))
        if writer is not None and writer.whole not in known:
            width = writer.projection.get_parameter("weight").numel() // part.width
            attention += 4 * rows * tokens**2 * width
    return linear, attention


def needed_flops(loaded: LoadedModel, part: ModelSlice, target_layer: int, copies: int, read: int) -> int:
    """Return the operations of one pass forward and back of N perturbations.

    With frozen weights a linear map needs as many again for the gradient of its input; attention needs twice as many, for
    it has two inputs to each of its two products.
    """
    linear, attention = forward_flops(loaded, part, target_layer, copies, read)
    return 2 * linear + 3 * attention


def product_rate(dtype: torch.dtype, device: torch.device, limit: float) -> float:
    """Return the operations a second of the fastest of several square matrix products.

    A processor without units for `dtype` multiplies a thousand times more slowly than one with them: larger products would
    take it minutes, and tell nothing that the smaller ones do not.

    Args:
        dtype: number format of the factors.
        device: where they are multiplied.
        limit: seconds that a product may take, as estimated from the one before; the smallest is always timed.
    """
    rates: list[float] = []
    for size in SQUARES[device.type]:
        if rates and 2 * size**3 / rates[-1] > limit:
            break
        left, right = (torch.randn(size, size, dtype=torch.float32).to(device, dtype) for _ in range(2))
        torch.mm(left, right)
        finished(device)
        started = time.perf_counter()
        torch.mm(left, right)
        finished(device)
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return max(rates)


def finished(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], loaded: LoadedModel) -> float:
    """Return how long `work` takes, what it leaves to the device included."""
    finished(loaded.device)
    started = time.perf_counter()
    work()
    finished(loaded.device)
    return time.perf_counter() - started
