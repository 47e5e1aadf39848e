"""A repository's tokenizer as one JSON text, how long a text may be, and how its makers pool states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.backbones.contract import Encoding, Pooling
from graft.backbones.repository import find_optional, read_json_object
from graft.backbones.tokenizer_limits import check_tokenizer, read_rules, reported, tokenizer_class
from graft.errors import BackboneError
from graft.files import MAX_JSON_BYTES, regular_file

LONGEST = 512  # tokens of a text, where the model would take more: their cost grows with the square
_WHOLE, _TOLD = "tokenizer.json", "tokenizer_config.json"
_FILES = (
    _WHOLE, _TOLD, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
_POOLING_FILE = "1_Pooling/config.json"  # of sentence-transformers
_POOLING_KEYS: dict[Pooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"),
}


def read_encoding(name: str, config: Any, max_length: int | None) -> Encoding:
    """The tokenizer as one JSON text: the repository's own ``tokenizer.json``, or what others convert to.

    The library's classes would build some tokenizers anew from their vocabulary, without what the file says
    beside it; so the file counts where there is one.

    Raises:
        BackboneError: there is none, it cannot be read, or ``max_length`` is more than the network takes.
    """
    library = tokenizer_class()
    found = find_optional(name, *_FILES)
    told = read_json_object(found[_TOLD]) if _TOLD in found else {}
    if not found.keys() - {_TOLD}:
        raise BackboneError(
            f"hf/{name} has no tokenizer: tokenizer.json was expected beside its config.json."
        )
    if _WHOLE in found:
        read_rules(_read(found[_WHOLE]), f"hf/{name}")
    with reported(BackboneError, f"The tokenizer of hf/{name} cannot be read"):
        if _WHOLE in found:
            text = library.from_file(str(found[_WHOLE])).to_str()
        else:
            text = _converted(next(iter(found.values())).parent, config)
    check_tokenizer(text, config.vocab_size, f"hf/{name}")
    known = _most_tokens(told.get("model_max_length"), config)
    if max_length is not None and max_length > known:
        raise BackboneError(
            f"data.max_length = {max_length}: this model takes texts of up to {known} tokens."
        )
    return Encoding(text, max_length or min(known, LONGEST), config.vocab_size)


def _read(file: Path) -> str:
    try:
        return regular_file(file, BackboneError, most=MAX_JSON_BYTES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BackboneError(f"{file} is no UTF-8 text; a tokenizer was expected.") from None


def _converted(folder: Path, config: Any) -> str:
    from transformers import AutoTokenizer

    found: Any = AutoTokenizer.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False, use_fast=True
    )
    if not getattr(found, "is_fast", False):
        raise ValueError(f"{type(found).__name__} has no form that is written as tokenizer.json")
    text: str = found.backend_tokenizer.to_str()
    return text


def _most_tokens(told: Any, config: Any) -> int:
    """How long a text the network can take; ``told``: what the tokenizer's settings say of it."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    known = positions if isinstance(positions, int) and positions > 0 else 2**20
    if config.model_type in _POSITIONS_AFTER_PADDING:
        known -= (config.pad_token_id or 0) + 1
    if not isinstance(told, int | float) or not 0 < told < known:
        return known
    return int(told)


def own_pooling(name: str, config: Any) -> Pooling:
    """As the model's makers pool: by sentence-transformers' file, by the configuration, or by its kind."""
    cure = "load it once with a network, or say how to pool with --set pooling=mean (or cls, or last)."
    found = find_optional(name, _POOLING_FILE, cure=cure)
    if found:
        told = read_json_object(found[_POOLING_FILE])
        for pooling, key in _POOLING_KEYS.items():
            if told.get(key) or told.get("pooling_mode") == pooling:
                return pooling
    own: Pooling = getattr(config, "classifier_pooling", "cls")
    return "last" if _is_decoder(config) else own if own in _POOLING_KEYS else "cls"


def _is_decoder(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
