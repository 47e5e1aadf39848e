"""Small text models of every kind, from random configurations, with a tokenizer of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = (
    *("the", "a", "film", "was", "is", "not", "very", "good", "bad", "great"),
    *("awful", "dull", "fine", "and", "but", "plot", "acting", "story", "ending"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "vocab_size": len(WORDS) + len(SPECIAL),
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24},
    "roberta": {"type_vocab_size": 1},
    "albert": {"embedding_size": 8},
    "electra": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    },
    "mpnet": {},
    "xlm-roberta": {"type_vocab_size": 1},
    "modernbert": {
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64},
    "llama": {"num_key_value_heads": 1, "head_dim": 8},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
}
WITH_SEGMENTS = ("bert", "albert", "electra")
DECODERS = ("gpt2", "llama", "qwen2", "qwen3")


def write_model(folder: Path, kind: str, *, seed: int = 0, **settings: Any) -> Path:
    """A folder as the hub has it, with a random model of this type and a tokenizer; returns it."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **(SMALL | KINDS[kind] | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    write_tokenizer(folder, decoder=kind in DECODERS, segments=kind in WITH_SEGMENTS)
    return folder


def write_tokenizer(folder: Path, *, decoder: bool = False, segments: bool = False) -> None:
    """``tokenizer.json`` of whole words; of encoders, texts stand between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if not decoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
