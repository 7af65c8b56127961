"""A checkpoint as transformers writes it, in a folder or on the hub: safetensors only, and no code of its own."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import CONFIG_NAME, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE, cached_file

from discover.choices import Attention
from discover.errors import UsageError, first_line
from discover.storage import read_json

PATIENCE = 5
"""Seconds to wait for the hub's first answer."""
EDGE = 1 << 20
"""Bytes read at either end of a weight file for its fingerprint."""


@dataclass(frozen=True)
class Checkpoint:
    """A model and its tokenizer as they were read, on the CPU."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: tuple[str, ...]
    """Weights that the files lack, drawn at random."""
    ends: tuple[int, ...]
    """Tokens that end a reply, beside those that config and tokenizer name."""
    fingerprints: dict[str, str]
    """Of each file of weights; none of a hub id, which has a commit."""


def read_checkpoint(path: str | Path, revision: str | None, dtype: torch.dtype | str, attention: Attention) -> Checkpoint:
    """Read the causal language model in a local folder or at a hub id.

    Args:
        path: the folder or id.
        revision: branch, tag or commit of an id.
        dtype: of the weights; `auto` is the checkpoint's own.
        attention: the implementation of attention.

    Raises:
        UsageError: nothing is there, or what is there may not or cannot be loaded.
    """
    _check_type(path, revision)
    origin = {"revision": revision, "trust_remote_code": False}
    try:
        structure = AutoConfig.from_pretrained(path, **origin)
        # A word in config.json wins over an argument of `from_pretrained`, and may name code to fetch from the hub.
        structure._attn_implementation = attention_name(attention, structure)
        structure._experts_implementation = None
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            **origin,
            config=structure,
            dtype=dtype,
            use_safetensors=True,
            weights_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **origin)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _template_beside(path, revision)
    except Exception as error:  # A damaged or hostile checkpoint can make its readers raise anything.
        raise UsageError(f"The checkpoint {path} cannot be loaded: {first_line(error)}") from error
    held = fingerprints(Path(path)) if Path(path).is_dir() else {}
    return Checkpoint(model, tokenizer, tuple(sorted(report["missing_keys"])), (), held)


def _template_beside(path: str | Path, revision: str | None) -> str | None:
    """Return the chat template that stands in a file of its own as processors write it, which tokenizers do not read."""
    missing_is_none = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(path, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE, revision=revision, **missing_is_none)
    return None if found is None else str(read_json(Path(found))["chat_template"])


def fingerprint(path: Path) -> str:
    """Return a hash of a file's size and both its ends; cheap on any size, and another file has another."""
    with path.open("rb") as handle:
        head = handle.read(EDGE)
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - EDGE))
        return hashlib.sha256(str(size).encode() + head + handle.read()).hexdigest()[:16]


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprint of each weight file in a folder, by its name."""
    return {path.name: fingerprint(path) for path in sorted(folder.glob("*.safetensors"))}


def attention_name(wanted: Attention, structure: PreTrainedConfig) -> str:
    """Return the implementation of attention by name."""
    if wanted is not Attention.auto:
        return wanted.value
    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(structure)]._supports_sdpa else "eager"


def _check_type(path: str | Path, revision: str | None) -> None:
    """Refuse, before any of it is loaded, what is no causal language model in safetensors."""
    folder = Path(path)
    if folder.is_dir():
        _check_weights(folder)
    elif folder.is_file():
        raise UsageError(f"{path} is a file and no GGUF; model.path takes a checkpoint's folder, a GGUF file or a hub id.")
    # Such a name cannot be a hub id; asking the hub would only hide what is wrong behind a network error.
    elif folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1:
        raise UsageError(f"There is no folder {path}; model.path takes a checkpoint's folder, a GGUF file, a name or a hub id.")
    else:
        _check_reachable(str(path), revision)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        kind = str(raw.get("model_type"))
    except Exception as error:  # Whatever stands in a file that calls itself config.json.
        raise _nowhere(path, error) from error
    check_decoder(path, kind, raw)


def check_decoder(path: str | Path, kind: str, raw: dict[str, Any]) -> None:
    """Refuse a type of model that transformers does not know, and one that is no causal language model.

    Args:
        path: where it stands, for the sentence.
        kind: the type.
        raw: the entries of its config.

    Raises:
        UsageError: as said.
    """
    # Before anything is built: an unknown type is where transformers would look for the checkpoint's own code.
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in raw:
            raise UsageError(f"The checkpoint {path} brings its own code, which is never run; use a port to transformers.")
        raise UsageError(f"The checkpoint {path} is of type {kind!r}, which this version of transformers does not know.")
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not raw.get("is_decoder", False)
    if encoder or raw.get("is_encoder_decoder", False) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(f"The checkpoint {path} is of type {kind!r}, no causal language model; a decoder is needed.")


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
        f"{first_line(error)}"
    )


def _check_weights(folder: Path) -> None:
    """Refuse a folder without a config or without weights in safetensors."""
    if (folder / "adapter_config.json").exists():
        raise UsageError(f"{folder} holds an adapter, not a model; an adapter's base must be a model of its own.")
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} has no config.json; model.path takes a Hugging Face checkpoint's folder.")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in sorted(folder.glob(pattern))]
        if pickles:
            raise UsageError(f"{folder} holds only pickle weights ({pickles[0]}), which can run code; convert to safetensors.")
        raise UsageError(f"{folder} holds no weights; a *.safetensors file is needed.")
