"""A model out of one GGUF file: weights dequantised, tokenizer and chat template as the file holds them."""

import contextlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from discover.choices import Attention
from discover.errors import UsageError, first_line
from discover.model.checkpoint import Checkpoint, attention_name, check_decoder, fingerprint

MAGIC = b"GGUF"
INSTALL = "pip install gguf accelerate"
ROPE_FACTORS = "rope_freqs.weight"
"""Divides the frequencies of rotary positions (Llama 3.1 and later); transformers leaves it out."""
CONTROL = 3
"""Token type of a special token."""
TURN_ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot|>"}
"""Special tokens after which every chat format that uses them waits for the user; a file names one or two ends only."""


def is_gguf(path: str | Path) -> bool:
    """Return whether `path` is a file that calls itself GGUF, or a name that can only be meant as one."""
    place = Path(path)
    if not place.is_file():
        return str(path).lower().endswith(".gguf") and not place.is_dir()
    if place.suffix.lower() == ".gguf":
        return True
    with place.open("rb") as handle:
        return handle.read(len(MAGIC)) == MAGIC


def read_gguf(path: Path, dtype: torch.dtype, attention: Attention) -> Checkpoint:
    """Return the model and tokenizer of a GGUF file, in `dtype`.

    Raises:
        UsageError: the packages that read it are missing, the file is damaged, of an unknown architecture or without a tokenizer,
            or it holds something that transformers would leave out.
    """
    if missing := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
        raise UsageError(f"A GGUF file is read with the package {missing[0]}, which is missing; install it: {INSTALL}")
    if not path.is_file():
        raise UsageError(f"There is no file {path}; model.path takes a GGUF file, a checkpoint's folder, a name or a hub id.")
    with _opened(path) as (reader, folder, name):
        try:
            return _checkpoint(path, reader, folder, name, dtype, attention)
        except UsageError:
            raise
        except Exception as error:  # A damaged or hostile file can make its readers raise anything.
            raise UsageError(f"The GGUF file {path} cannot be loaded: {first_line(error)}") from error


def _checkpoint(path: Path, reader: Any, folder: str, name: str, dtype: torch.dtype, attention: Attention) -> Checkpoint:
    # Here, since older versions of transformers, which the rest of the package is content with, have none.
    from transformers.utils.quantization_config import GgufConfig

    fields = _checked_fields(path, reader)
    structure = AutoConfig.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    check_decoder(path, structure.model_type, structure.to_dict())
    structure._attn_implementation = attention_name(attention, structure)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        config=structure,
        # Packed weights would be computed with kernels fetched from the hub.
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    _make_plain(model)
    _check_all_placed(path, reader, model)
    _check_positions(path, fields, model.config)
    _scale_frequencies(path, reader, model)
    _drop_invented_tokens(tokenizer, model.get_input_embeddings().weight.shape[0])
    tokenizer.name_or_path = str(path)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        missing=tuple(sorted(report["missing_keys"])),
        ends=_ends(fields),
        fingerprints={path.name: fingerprint(path)},
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str, str]]:
    """Yield a reader of the file, and the folder and name by which transformers finds the file alone.

    What else lies beside the file (another model's tokenizer, an adapter) would be taken for a part of it. And the one reading
    serves every reader within, as does one table of names: transformers reads a vocabulary of 262,144 tokens three times and
    makes the table anew for every module, which takes longer than all the rest.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # Whatever stands in a file that is cut short, or is none.
        raise UsageError(
            f"The GGUF file {path} cannot be read, as if damaged or cut short ({first_line(error)}); fetch it again."
        ) from error
    originals = gguf.GGUFReader, gguf.get_tensor_name_map
    with TemporaryDirectory(prefix="discover-gguf-") as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        gguf.GGUFReader, gguf.get_tensor_name_map = (lambda *_: reader), cache(gguf.get_tensor_name_map)
        try:
            yield reader, folder, "model.gguf"
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = originals


def _checked_fields(path: Path, reader: Any) -> dict[str, Any]:
    """Return the short entries of a file's head by name, and refuse a file that cannot become a model by itself."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    fields = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
    kind = str(fields.get("general.architecture"))
    # transformers writes some of them otherwise, and lists two kinds of entries among them.
    known = {name.replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"}
    if kind not in GGUF_CONFIG_ARCHS and kind.replace("-", "").replace("_", "") not in known:
        raise UsageError(
            f"The GGUF file {path} is of architecture {kind!r}, which this version of transformers cannot read; "
            "give the model's own folder or hub id."
        )
    if int(fields.get("split.count", 1)) > 1:
        raise UsageError(
            f"The GGUF file {path} is one of {fields['split.count']} parts; join them with llama-gguf-split --merge."
        )
    if "tokenizer.ggml.model" not in fields or not reader.fields.get("tokenizer.ggml.tokens"):
        raise UsageError(f"The GGUF file {path} holds no tokenizer; give a file that was converted together with its tokenizer.")
    fields["tokens"], fields["types"] = reader.fields["tokenizer.ggml.tokens"], reader.fields.get("tokenizer.ggml.token_type")
    return fields


def _ends(fields: dict[str, Any]) -> tuple[int, ...]:
    """Return the tokens that end a reply: those that the file names, and special tokens that end a turn in some chat format."""
    ends = {int(fields[key]) for name in ("eos", "eot", "eom") if (key := f"tokenizer.ggml.{name}_token_id") in fields}
    if fields["types"] is not None:
        special = [index for index, kind in enumerate(fields["types"].contents()) if kind == CONTROL]
        ends.update(index for index in special if fields["tokens"].contents(index) in TURN_ENDS)
    return tuple(sorted(ends))


def _drop_invented_tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Take away tokens that the model has no row for: transformers adds an `<|endoftext|>` to files that have none."""
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if len(tokenizer) > rows else {"added_tokens": []}
    invented = [entry["content"] for entry in content["added_tokens"] if entry["id"] >= rows]
    if not invented:
        return
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["id"] < rows]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    if tokenizer.unk_token in invented:
        tokenizer.unk_token = None


def _make_plain(model: PreTrainedModel) -> None:
    """Make a dequantised model the ordinary one that it is: it can be saved, and nothing takes it for a packed one."""
    for config in (model.config, model.config.get_text_config(decoder=True)):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    model.hf_quantizer = None
    for name in ("quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)


def _check_all_placed(path: Path, reader: Any, model: PreTrainedModel) -> None:
    """Refuse a file with a tensor that has no place in the model: transformers would leave it out without a word."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    kind = str(reader.fields["general.architecture"].contents())
    if kind in GGUF_CONFIG_ARCHS:
        return
    processor = TENSOR_PROCESSORS.get(kind, TensorProcessor)(config=model.config.to_dict())
    places = get_gguf_hf_weights_map(model, processor)
    names = [tensor.name for tensor in reader.tensors if tensor.name != ROPE_FACTORS]
    if left := [name for name in names if name not in places and name.removesuffix(".weight") not in places]:
        raise UsageError(
            f"The GGUF file {path} holds {len(left)} tensors that this version of transformers would leave out, for example "
            f"{left[0]}; give the model's own folder or hub id."
        )


def _check_positions(path: Path, fields: dict[str, Any], structure: PreTrainedConfig) -> None:
    """Refuse stretched positions that transformers does not take over from the file."""
    scaling = fields.get(f"{fields['general.architecture']}.rope.scaling.type", "none")
    rope = getattr(structure, "rope_parameters", None) or {}
    if scaling != "none" and rope.get("rope_type", "default") == "default":
        raise UsageError(
            f"The GGUF file {path} stretches its positions ({scaling}), which this version of transformers leaves out; give the "
            "model's own folder or hub id."
        )


def _scale_frequencies(path: Path, reader: Any, model: PreTrainedModel) -> None:
    """Divide the frequencies of the rotary positions by the file's factors, as llama.cpp does."""
    factors = [torch.tensor(tensor.data) for tensor in reader.tensors if tensor.name == ROPE_FACTORS]
    if not factors:
        return
    rotary = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    if len(rotary) != 1 or rotary[0].inv_freq.shape != factors[0].shape:
        raise UsageError(f"The GGUF file {path} scales positions in a way that this version of transformers does not know.")
    rotary[0].inv_freq.div_(factors[0])
    rotary[0].original_inv_freq = rotary[0].inv_freq.clone()
