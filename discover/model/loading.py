"""Load a checkpoint that nobody has vouched for: no code of its own, no pickle, frozen."""

import copy
import hashlib
import inspect
import os
from collections.abc import Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import CONFIG_NAME

from discover.choices import Attention, Device, Dtype
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.anatomy import Anatomy, anatomy
from discover.model.prompts import PromptBatch

PATIENCE = 5
"""Seconds to wait for the hub's first answer."""
EDGE = 1 << 20
"""Bytes read at either end of a weight file for its fingerprint."""


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
    """Name, revision, fingerprints, dtype and device, as they stand in run.json."""

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
        logits = self.model(**self._inputs(batch, begin, batch.input_ids.shape[1]), **kept, **cached).logits
        return logits if last is None else logits[:, -last:]

    def prefix(self, batch: PromptBatch, length: int) -> Cache:
        """Return the keys and values of the first `length` positions of B prompts."""
        return self.model(**self._inputs(batch, 0, length), use_cache=True).past_key_values

    @property
    def _accepted(self) -> Set[str]:
        return inspect.signature(self.model.forward).parameters.keys()

    def _inputs(self, batch: PromptBatch, begin: int, end: int) -> dict[str, torch.Tensor]:
        """Return what the model is given for the positions from `begin` to `end`."""
        inputs = {"input_ids": batch.input_ids[:, begin:end], "attention_mask": batch.attention_mask[:, :end]}
        if "position_ids" in self._accepted:
            inputs["position_ids"] = batch.position_ids[:, begin:end]
        return {key: value.to(self.device) for key, value in inputs.items()}


def load(config: ModelConfig, path: str | Path) -> LoadedModel:
    """Load the causal language model at a local folder or hub id, in evaluation mode and without gradients.

    Args:
        config: dtype, device, revision and attention.
        path: the folder or id; `config.path` unless that names a built-in organism.

    Raises:
        UsageError: nothing is there, or what is there may not or cannot be loaded.
    """
    kind = _known_type(path, config.revision)
    device = _device(config.device)
    origin = {"revision": config.revision, "trust_remote_code": False}
    try:
        structure = AutoConfig.from_pretrained(path, **origin)
        # A word in config.json wins over an argument of `from_pretrained`, and may name code to fetch from the hub.
        structure._attn_implementation = _attention(config.attention, structure)
        structure._experts_implementation = None
        model, told = AutoModelForCausalLM.from_pretrained(
            path,
            **origin,
            config=structure,
            dtype=_dtype(config.dtype, device),
            use_safetensors=True,
            weights_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **origin)
    except Exception as error:  # A damaged or hostile checkpoint can make its readers raise anything.
        raise UsageError(f"The checkpoint {path} cannot be loaded: {_first_line(error)}") from error
    # Without its files some kinds of tokenizer are made all the same, and know no word.
    if set(tokenizer("a", add_special_tokens=False)["input_ids"]) <= set(tokenizer.all_special_ids):
        raise UsageError(
            f"The checkpoint {path} has no usable tokenizer; put its tokenizer files, such as tokenizer.json, there."
        )
    # transformers only warns here, and goes on with random weights.
    if absent := sorted(told["missing_keys"]):
        raise UsageError(
            f"The checkpoint {path} lacks {len(absent)} of the weights of a {kind!r} model, for example {absent[0]}, which would "
            "be drawn at random; give a complete checkpoint."
        )
    model.to(device).eval().requires_grad_(False)
    end_ids = _end_ids(model, tokenizer)
    # A checkpoint's own generation settings (penalties, sampling) would change what is read from it.
    model.generation_config = GenerationConfig()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    text_config = model.config.get_text_config(decoder=True)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        anatomy=anatomy(model, config.blocks_path),
        end_ids=end_ids,
        context=getattr(text_config, "max_position_embeddings", None),
        identity={
            "path": str(config.path),
            "commit": getattr(model.config, "_commit_hash", None),
            "fingerprints": fingerprints(Path(path)) if Path(path).is_dir() else {},
            "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16],
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(device),
        },
    )


def fingerprints(folder: Path) -> dict[str, str]:
    """Return a hash of each weight file's size and both its ends; cheap on any size, and another file has another."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            head = handle.read(EDGE)
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - EDGE))
            found[path.name] = hashlib.sha256(str(size).encode() + head + handle.read()).hexdigest()[:16]
    return found


def _known_type(path: str | Path, revision: str | None) -> str:
    """Return the model type, and refuse before any of it is loaded what is no causal language model in safetensors."""
    folder = Path(path)
    if folder.is_dir():
        _check_weights(folder)
    # Such a name cannot be a hub id; asking the hub would only hide what is wrong behind a network error.
    elif folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1:
        raise UsageError(f"There is no folder {path}; model.path takes a checkpoint's folder, a hub id or an organism's name.")
    else:
        _check_reachable(str(path), revision)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        kind = str(raw.get("model_type"))
    except Exception as error:  # Whatever stands in a file that calls itself config.json.
        raise _nowhere(path, error) from error
    # Before anything is built: an unknown type is where transformers would look for the checkpoint's own code.
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in raw:
            raise UsageError(f"The checkpoint {path} brings its own code, which is never run; use a port to transformers.")
        raise UsageError(f"The checkpoint {path} is of type {kind!r}, which this version of transformers does not know.")
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not raw.get("is_decoder", False)
    if encoder or raw.get("is_encoder_decoder", False) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(f"The checkpoint {path} is of type {kind!r}, no causal language model; a decoder is needed.")
    return kind


def _check_reachable(name: str, revision: str | None) -> None:
    """Ask the hub for a checkpoint that is not in the cache once, before its readers ask it for half a minute."""
    try:
        if not isinstance(try_to_load_from_cache(name, CONFIG_NAME, revision=revision), str):
            get_hf_file_metadata(hf_hub_url(name, CONFIG_NAME, revision=revision), timeout=PATIENCE)
    except Exception as error:  # A name that no hub takes, no network, no such checkpoint, no right to read it.
        raise _nowhere(name, error) from error


def _nowhere(path: str | Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is neither a built-in organism, nor a folder with a config.json, nor a hub id that can be reached: "
        f"{_first_line(error)}"
    )


def _check_weights(folder: Path) -> None:
    """Refuse a folder without a config or without weights in safetensors."""
    if (folder / "adapter_config.json").exists():
        raise UsageError(f"{folder} holds an adapter, not a model; merge it into its base model and give that folder.")
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} has no config.json; model.path takes a Hugging Face checkpoint's folder.")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in sorted(folder.glob(pattern))]
        if pickles:
            raise UsageError(f"{folder} holds only pickle weights ({pickles[0]}), which can run code; convert to safetensors.")
        raise UsageError(f"{folder} holds no weights; a *.safetensors file is needed.")


def _device(wanted: Device) -> torch.device:
    if wanted is Device.cuda and not torch.cuda.is_available():
        raise UsageError("model.device=cuda was asked for and no GPU is visible; use model.device=cpu or auto.")
    return torch.device("cuda" if wanted is not Device.cpu and torch.cuda.is_available() else "cpu")


def _attention(wanted: Attention, structure: PreTrainedConfig) -> str:
    """Return the implementation of attention by name."""
    if wanted is not Attention.auto:
        return wanted.value
    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(structure)]._supports_sdpa else "eager"


def _dtype(wanted: Dtype, device: torch.device) -> str:
    """Return what `from_pretrained` takes; bfloat16 on most CPUs is slower than float32 and less exact."""
    return "float32" if wanted is Dtype.auto and device.type == "cpu" else wanted.value


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that the checkpoint says ends a reply."""
    named = [tokenizer.eos_token_id, model.config.get_text_config(decoder=True).eos_token_id]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    ends: set[int] = set()
    for ids in named:
        ends.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(ends))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
