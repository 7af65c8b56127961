"""Load a checkpoint that nobody has vouched for: no code of its own, no pickle, frozen."""

import copy
import hashlib
import inspect
from collections.abc import Iterator, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, modeling_gguf_pytorch_utils
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from discover.choices import Device, Dtype
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.adapter import is_adapter, merged, read_adapter
from discover.model.anatomy import Anatomy, anatomy
from discover.model.checkpoint import Checkpoint, read_checkpoint
from discover.model.gguf_file import is_gguf, read_gguf
from discover.model.hooks import contiguous_input
from discover.model.packaged import resolved
from discover.model.prompts import PromptBatch, left_padded

FEW_WORDS = "Count the boats in the harbour."
"""Read once by every model that is loaded."""


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model with its tokenizer, its parts and what identifies it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    end_ids: tuple[int, ...]
    """Tokens that end a reply."""
    context: int | None
    """Longest input in tokens, where the checkpoint states one."""
    identity: dict[str, Any]
    """Name, base model, commit, fingerprints, dtype and device, as they stand in run.json."""

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return next(self.model.parameters()).device

    def apart(self) -> "LoadedModel":
        """Return the model over the same weights in modules of its own: what changes one changes nothing in the other."""
        shared = {id(tensor): tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        # In one call, so that the anatomy of the copy names modules of the copy.
        model, parts = copy.deepcopy((self.model, self.anatomy), shared)
        return replace(self, model=model, anatomy=parts)

    def forward(self, batch: PromptBatch, last: int | None = None, prefix: Cache | None = None) -> torch.Tensor:
        """Return the logits [B, T, V] of one pass; positions count from each row's first token.

        Args:
            batch: B prompts.
            last: return only this many last positions, [B, last, V]; None for all.
            prefix: keys and values of so many first positions as it holds, which are not computed then, and are not among the
                T that come back; it is written to.
        """
        begin = prefix.get_seq_length() if prefix is not None else 0
        kept = {"logits_to_keep": last} if last is not None and "logits_to_keep" in self._accepted else {}
        cached = {"past_key_values": prefix, "use_cache": True} if prefix is not None else {"use_cache": False}
        # Over states that do not stand side by side in memory torch multiplies row by row, and in bfloat16 copies all weights
        # of the head for each of them.
        head = self.model.get_output_embeddings() if kept else None
        with nullcontext() if head is None else contiguous_input(head):
            logits = self.model(**self._inputs(batch, begin, batch.input_ids.shape[1]), **kept, **cached).logits
        return logits if last is None else logits[:, -last:]

    def prefix(self, batch: PromptBatch, length: int) -> Cache:
        """Return the keys and values of the first `length` positions of B prompts."""
        return self.model(**self._inputs(batch, 0, length), use_cache=True).past_key_values

    @property
    def _accepted(self) -> Set[str]:
        return inspect.signature(self.model.forward).parameters.keys()

    def _check_tokens(self, ids: torch.Tensor) -> None:
        """Refuse tokens that the model does not embed, while they are where looking at them costs nothing."""
        size = self.model.get_input_embeddings().weight.shape[0]
        if ids.device.type == "cpu" and ids.numel() and int(ids.max()) >= size:
            token = int(ids.max())
            raise UsageError(
                f"A text for the model holds the token {self.tokenizer.decode([token])!r}, number {token}, and the model embeds "
                f"{size}; leave it out."
            )

    def _inputs(self, batch: PromptBatch, begin: int, end: int) -> dict[str, torch.Tensor]:
        """Return what the model is given for the positions from `begin` to `end`."""
        inputs = {"input_ids": batch.input_ids[:, begin:end], "attention_mask": batch.attention_mask[:, :end]}
        self._check_tokens(inputs["input_ids"])
        if "position_ids" in self._accepted:
            inputs["position_ids"] = batch.position_ids[:, begin:end]
        return {key: value.to(self.device) for key, value in inputs.items()}


def load(config: ModelConfig, path: str | Path) -> LoadedModel:
    """Load a causal language model in evaluation mode and without gradients.

    Args:
        config: dtype, device, revision, attention, and the base model where there is an adapter.
        path: a folder, a GGUF file, a folder with an adapter, a hub id, or a name; `config.path` unless that names a built-in
            organism.

    Raises:
        UsageError: nothing is there, or what is there may not or cannot be loaded.
    """
    device = _device(config.device)
    with _without_bars():
        read, base = _read(config, resolved(str(path)), device)
    model, tokenizer = read.model, read.tokenizer
    # Without its files some kinds of tokenizer are made all the same, and know no word.
    if set(tokenizer("a", add_special_tokens=False)["input_ids"]) <= set(tokenizer.all_special_ids):
        raise UsageError(
            f"The checkpoint {path} has no usable tokenizer; put its tokenizer files, such as tokenizer.json, there."
        )
    _check_vocabulary(path, tokenizer, model)
    model.to(device).eval().requires_grad_(False)
    end_ids = tuple(sorted({*_end_ids(model, tokenizer), *read.ends}))
    # A checkpoint's own generation settings (penalties, sampling) would change what is read from it.
    model.generation_config = GenerationConfig()
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= model.get_input_embeddings().weight.shape[0]:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    text_config = model.config.get_text_config(decoder=True)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        anatomy=anatomy(model, config.blocks_path),
        end_ids=end_ids,
        context=getattr(text_config, "max_position_embeddings", None),
        identity={
            "path": str(config.path),
            **({} if base is None else {"base": base}),
            "commit": getattr(model.config, "_commit_hash", None),
            "fingerprints": read.fingerprints,
            "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16],
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(device),
        },
    )
    _check_numbers(loaded)
    return loaded


@contextmanager
def _without_bars() -> Iterator[None]:
    """While open, transformers draws no bars: what a run does is shown by bars of its own."""
    shown, drawn = is_progress_bar_enabled(), modeling_gguf_pytorch_utils.tqdm
    disable_progress_bar()
    # The bar over the tensors of a GGUF file does not ask whether bars are wanted.
    modeling_gguf_pytorch_utils.tqdm = partial(drawn, disable=True)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = drawn
        if shown:
            enable_progress_bar()


def _read(config: ModelConfig, path: str | Path, device: torch.device) -> tuple[Checkpoint, str | None]:
    """Return what is at `path`, and the name of the base model where that is an adapter."""
    if not is_adapter(path):
        if config.base is not None:
            raise UsageError(f"model.base={config.base} is for an adapter, and {path} is none; leave it out.")
        return _whole(config, path, config.revision, _dtype(config.dtype, device, is_gguf(path))), None
    adapter = read_adapter(Path(path))
    name = config.base or adapter.base
    if name is None:
        raise UsageError(f"The adapter {path} does not say which model it is for; give that with model.base.")
    try:
        base = _whole(config, resolved(name), config.revision or (None if config.base else adapter.revision), "float32")
    except UsageError as error:
        if config.base is not None:
            raise
        reason = str(error).rstrip(".")
        raise UsageError(
            f"The base model of the adapter {path} is missing ({reason}); or name another with model.base."
        ) from error
    return merged(adapter, base, getattr(torch, _dtype(config.dtype, device, True))), name


def _whole(config: ModelConfig, path: str | Path, revision: str | None, dtype: str) -> Checkpoint:
    """Return the model in a folder, at a hub id or in a GGUF file, all its weights its own."""
    if is_gguf(path):
        read = read_gguf(Path(path), getattr(torch, dtype), config.attention)
    else:
        read = read_checkpoint(path, revision, dtype, config.attention)
    # transformers only warns here, and goes on with random weights.
    if absent := read.missing:
        raise UsageError(
            f"The checkpoint {path} lacks {len(absent)} of the weights of a {read.model.config.model_type!r} model, for example "
            f"{absent[0]}, which would be drawn at random; give a complete checkpoint."
        )
    return read


def _check_numbers(loaded: LoadedModel) -> None:
    """Refuse a model that puts out no finite numbers for a few words, as large activations do in float16."""
    words = loaded.tokenizer(FEW_WORDS)["input_ids"]
    with torch.no_grad():
        logits = loaded.forward(left_padded([FEW_WORDS], [words], 0))
    if torch.isfinite(logits).all():
        return
    dtype, path = loaded.identity["dtype"], loaded.identity["path"]
    if dtype == "float16":
        raise UsageError(
            f"In float16 {path} puts out no finite numbers: its activations are too large; use model.dtype=bfloat16."
        )
    raise UsageError(f"{path} puts out no finite numbers in {dtype}: its weights are damaged; get the checkpoint again.")


def _check_vocabulary(path: str | Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer whose ordinary tokens the model does not embed all; added ones, such as those of images, seldom come."""
    size = model.get_input_embeddings().weight.shape[0]
    beyond = {number for number in tokenizer.get_vocab().values() if number >= size} - tokenizer.added_tokens_decoder.keys()
    if beyond:
        raise UsageError(
            f"The tokenizer of {path} has {len(tokenizer)} tokens and the model embeds {size}: it is another model's; put the "
            "tokenizer files of this model there."
        )


def _device(wanted: Device) -> torch.device:
    if wanted is Device.cuda and not torch.cuda.is_available():
        raise UsageError("model.device=cuda was asked for and no GPU is visible; use model.device=cpu or auto.")
    return torch.device("cuda" if wanted is not Device.cpu and torch.cuda.is_available() else "cpu")


def _dtype(wanted: Dtype, device: torch.device, unpacked: bool) -> str:
    """Return the dtype by name, or `auto` for the checkpoint's own; what was unpacked or merged has none and takes bfloat16.

    bfloat16 on most CPUs is slower than float32 and less exact.
    """
    if wanted is Dtype.auto and device.type == "cpu":
        return "float32"
    return "bfloat16" if wanted is Dtype.auto and unpacked else wanted.value


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that the checkpoint says ends a reply."""
    named = [tokenizer.eos_token_id, model.config.get_text_config(decoder=True).eos_token_id]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    ends: set[int] = set()
    for ids in named:
        ends.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(ends))
