"""A PEFT LoRA adapter, merged into its base model: every one of its weights is used, or none."""

import hashlib
import json
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from discover.errors import UsageError, first_line
from discover.model.checkpoint import Checkpoint, fingerprint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNMERGEABLE = ("megatron_config", "alora_invocation_tokens", "arrow_config")
"""Options with which an adapter is no fixed change of the weights, or names a package to import."""
TOLD = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
"""Entries of an adapter's config that change nothing of what is merged."""


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter, looked at and not yet loaded."""

    folder: Path
    base: str | None
    """What its config names as its base model."""
    revision: str | None
    """The revision of that, where it is a hub id."""
    entries: dict[str, Any]
    """Its config."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of its weights, and of those entries of its config that say how they are merged."""
        merged = {name: value for name, value in self.entries.items() if name not in TOLD}
        rule = hashlib.sha256(json.dumps(merged, sort_keys=True).encode()).hexdigest()[:16]
        return {WEIGHTS: fingerprint(self.folder / WEIGHTS), CONFIG: rule}


def is_adapter(path: str | Path) -> bool:
    """Return whether there is a folder with an adapter's config."""
    return (Path(path) / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in a folder.

    Raises:
        UsageError: it is no LoRA, its weights are missing or a pickle, or it cannot become part of the weights.
    """
    try:
        entries = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError("no table of entries")
    except (OSError, ValueError) as error:
        raise UsageError(f"The {CONFIG} in {folder} cannot be read: {first_line(error)}") from error
    if (kind := entries.get("peft_type")) != "LORA":
        raise UsageError(f"The adapter {folder} is of type {kind!r}; only LoRA can be merged into the weights.")
    if not (folder / WEIGHTS).is_file():
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise UsageError(f"{folder} holds only pickle weights ({pickles[0]}), which can run code; convert to safetensors.")
        raise UsageError(f"The adapter {folder} holds no weights; {WEIGHTS} is needed.")
    if odd := [name for name in UNMERGEABLE if entries.get(name)]:
        raise UsageError(f"The adapter {folder} uses {odd[0]}, with which it is no fixed change of the weights; it is not taken.")
    known = {field.name for field in fields(LoraConfig)}
    if newer := sorted(name for name, value in entries.items() if name not in known and value):
        raise UsageError(f"The adapter {folder} uses {newer[0]}, which this version of peft does not know; update peft.")
    base, revision = entries.get("base_model_name_or_path"), entries.get("revision")
    return Adapter(folder, str(base) if base else None, str(revision) if revision else None, entries)


def merged(adapter: Adapter, base: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Return the base with the adapter merged into its weights in float32, in `dtype`.

    Args:
        adapter: as read.
        base: its base model, in float32; it is changed.
        dtype: of the result.

    Raises:
        UsageError: the adapter is for another model, or a weight of its own would not be used.
    """
    return replace(
        base,
        model=_merged_model(adapter, base.model).to(dtype),
        tokenizer=_tokenizer(adapter, base),
        fingerprints={**{f"base/{name}": value for name, value in base.fingerprints.items()}, **adapter.fingerprints},
    )


def _merged_model(adapter: Adapter, model: PreTrainedModel) -> PreTrainedModel:
    try:
        held = load_file(adapter.folder / WEIGHTS)
        with warnings.catch_warnings():
            # What peft warns of is checked below, and refused.
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(model, str(adapter.folder), config=_config(adapter), torch_device="cpu")
            _check_used(adapter, wrapped, held)
            whole = wrapped.merge_and_unload(safe_merge=True)
    except UsageError:
        raise
    except Exception as error:  # Shapes of another model, modules that it has not, numbers that are none.
        name = getattr(model.config, "name_or_path", "") or "its base"
        raise UsageError(
            f"The adapter {adapter.folder} does not fit {name}: {first_line(error)}; give the model that it was trained on with "
            "model.base."
        ) from error
    if hasattr(whole, "peft_config"):
        del whole.peft_config
    return whole


def _config(adapter: Adapter) -> LoraConfig:
    return LoraConfig.from_pretrained(str(adapter.folder))


def _check_used(adapter: Adapter, wrapped: PeftModel, held: dict[str, torch.Tensor]) -> None:
    """Refuse an adapter whose file and whose place in the model are not the same weights: peft skips what matches nothing."""
    placed = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    # An adapter of the embedding brings that itself, too.
    everything = wrapped.state_dict()
    for name in held.keys() - placed.keys():
        if name in everything:
            placed[name] = everything[name]
    if unused := sorted(held.keys() - placed.keys()):
        raise UsageError(
            f"The adapter {adapter.folder} has {len(unused)} of {len(held)} weights without a place in its base model, for "
            f"example {unused[0]}; give the model that it was trained on with model.base."
        )
    if absent := sorted(placed.keys() - held.keys()):
        raise UsageError(f"The adapter {adapter.folder} lacks {len(absent)} of its weights, for example {absent[0]}.")
    if changed := sorted(name for name, value in held.items() if not torch.equal(value.float(), placed[name].float().cpu())):
        raise UsageError(f"The adapter {adapter.folder} was not taken over whole: {changed[0]} differs.")


def _tokenizer(adapter: Adapter, base: Checkpoint) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside the adapter where there is one, with the base's chat template where it has none."""
    if not (adapter.folder / "tokenizer.json").is_file():
        return base.tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(adapter.folder, trust_remote_code=False, config=base.model.config)
    except Exception as error:  # As with any checkpoint.
        raise UsageError(f"The tokenizer in {adapter.folder} cannot be loaded: {first_line(error)}") from error
    if len(tokenizer) > base.model.get_input_embeddings().weight.shape[0]:
        raise UsageError(
            f"The tokenizer in {adapter.folder} has {len(tokenizer)} tokens, more than its base model; extend that first."
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = base.tokenizer.chat_template
    return tokenizer
