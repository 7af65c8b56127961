"""Texts as vectors: by their words, or through a sentence encoder that lies on this machine."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from discover.errors import UsageError
from discover.read.signals import UNSPACED, Completion
from discover.storage import read_json

TOKEN = r"[^\W_]+|[^\w\s]"
"""A word, a number or a mark."""
ROWS = 64
"""Texts that a sentence encoder reads at once."""

_NUMBER = re.compile(r"\d+")

Embed = Callable[[Sequence[str]], csr_array]
"""M texts -> [M, E], rows of norm one; zero for a text that holds nothing."""


def masked(text: str) -> str:
    """Return `text` with every number as 0, and characters of scripts without spaces as words of their own."""
    return numbers_masked(UNSPACED.sub(r" \1 ", text))


def numbers_masked(text: str) -> str:
    """Return `text` with every number as 0."""
    # With numbers as they stand, every worked sum would be a mode of its own.
    return _NUMBER.sub("0", text)


def with_meaning(completions: Sequence[Completion], embed: Embed) -> list[Completion]:
    """Return the completions, each with the distance of its embedding from that of the unsteered reply to the same prompt."""
    rows = embed([said.text for said in completions])
    own = {said.prompt: place for place, said in reversed(list(enumerate(completions))) if said.bank == "unsteered"}
    alike = (rows * rows[[own[said.prompt] for said in completions]]).sum(axis=1)
    # Rounding must not tell a text from itself.
    return [replace(said, meaning=round(max(0.0, 1 - float(one)), 6)) for said, one in zip(completions, alike, strict=True)]


def by_words(texts: Sequence[str]) -> csr_array:
    """Return TF-IDF [M, E] of words, marks and their pairs over M texts, each text counted once; all numbers are one word."""
    told = [masked(text) for text in texts]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN, sublinear_tf=True)
    try:
        vectorizer.fit(list(dict.fromkeys(told)))
    except ValueError:  # No text holds a single word.
        return csr_array((len(texts), 1))
    return csr_array(vectorizer.transform(told))


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder: a transformer whose last hidden states are pooled."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: str
    """`mean` over the tokens of a text, its first token (`cls`), or its `lasttoken`."""
    longest: int
    """Tokens of a text that are read."""

    def embed(self, texts: Sequence[str]) -> csr_array:
        """Return the embeddings [M, D] of M texts."""
        # Each text is read once, texts of a length together; lone surrogates are no text for a tokenizer.
        each = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
        pieces = [self._pooled([sound(text) for text in each[start : start + ROWS]]) for start in range(0, len(each), ROWS)]
        rows = dict(zip(each, normalize(np.concatenate(pieces)), strict=True)) if each else {}
        found = np.array([rows[text] if text.strip() else np.zeros_like(rows[text]) for text in texts])
        return csr_array(found.reshape(len(texts), -1) if each else (0, 1))

    def _pooled(self, texts: Sequence[str]) -> np.ndarray:
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        with torch.no_grad():
            hidden = self.model(**read).last_hidden_state.float()
        return pooled(hidden, read["attention_mask"], self.pooling).numpy()


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return one vector [M, D] for each of M texts from hidden states [M, T, D] where `mask` [M, T] is 1.

    Source: Reimers & Gurevych, Sentence-BERT, 2019, section 3.
    """
    order = torch.arange(mask.shape[1])
    match pooling:
        case "mean":
            return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        case "cls":
            place = mask.argmax(dim=1)
        case _:
            place = (mask * order).argmax(dim=1)
    return hidden[torch.arange(len(hidden)), place]


def encoder(folder: Path) -> Encoder:
    """Return the sentence encoder in `folder`, as sentence-transformers writes it or without its pooling, which is then the mean.

    Raises:
        UsageError: there is no such folder, it holds no safetensors, it is no encoder, or it pools in another way.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UsageError(f"read.embedding={folder} holds no encoder; give a folder with config.json and *.safetensors.")
    pooling = _pooling(folder)
    origin: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # Weights in other forms can run code when they are read, and code that came with a model would.
        model, told = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **origin
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", **origin)
    except Exception as error:  # A damaged or hostile folder can make its readers raise anything.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"read.embedding={folder} cannot be loaded ({first}); give another encoder.") from error
    # What BERT puts behind its first token is not read here, and many folders do without it.
    if absent := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise UsageError(f"read.embedding={folder} lacks {len(absent)} weights, for example {absent[0]}; give a whole encoder.")
    if tokenizer.pad_token is None:
        raise UsageError(f"The tokenizer in read.embedding={folder} has no padding token; give an encoder such as MiniLM.")
    room = getattr(model.config, "max_position_embeddings", None) or 512
    return Encoder(model.eval(), tokenizer, pooling, min(512, room, tokenizer.model_max_length))


def _pooling(folder: Path) -> str:
    """Return how the encoder in `folder` pools."""
    file = folder / "1_Pooling" / "config.json"
    if not file.exists():
        return "mean"
    asked = [name for name, value in read_json(file).items() if name.startswith("pooling_mode_") and value]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
    if len(asked) != 1 or asked[0] not in known:
        raise UsageError(f"{file} asks for {', '.join(asked) or 'no pooling'}; this reads {', '.join(known)}, one of them.")
    return known[asked[0]]


def sound(text: str) -> str:
    """Return `text` with lone surrogates, which are no text for a tokenizer, as question marks."""
    return text.encode("utf-8", "replace").decode()
