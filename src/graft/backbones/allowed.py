"""Which settings of a configuration reach a library, and how large their numbers may be.

A configuration may come from a stranger, and libraries take more from one than the shape of a network:
paths of files, names of other repositories, code, kernels. What is on none of these lists stays here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.backbones.contract import Pooling
from graft.errors import BackboneError, quote, shorten

MOST_TEXT = 10_000  # characters of one setting
MOST_ENTRIES = 200_000  # of a list or a table, as names of classes are
MOST = 2**20  # any number of a transformers configuration that decides a size
MOST_POSITIONS = 2**31  # numbers that decide none alone, or whose tensor is counted
MOST_TIMM = 2**14

_TIMM_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "class_token", "pos_embed"),
    *("no_embed_class", "reg_tokens", "pre_norm", "final_norm", "fc_norm", "pool_include_prefix"),
    *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "always_partition", "window_size"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *(
        "drop_path_rate",
        "weight_init",
        "fix_init",
        "init_values",
        "ls_init_value",
        "layer_scale_init_value",
    ),
    *("embed_dim", "embed_dims", "depth", "depths", "dim", "dims", "num_heads", "mlp_ratio", "mlp_ratios"),
    *("qkv_bias", "qk_norm", "proj_bias", "act_layer", "norm_layer", "norm_eps", "num_features"),
    *("head_hidden_size", "head_init_scale", "head_norm_first", "kernel_sizes", "conv_mlp", "conv_bias"),
    *("use_grn", "stem_type", "stem_width", "stem_size", "output_stride", "layers", "channels"),
    *("base_width", "cardinality", "width", "growth_rate", "use_rel_pos_bias", "use_abs_pos_emb"),
    *("use_rot_pos_emb", "use_shared_rel_pos_bias", "rope_type", "rope_temperature", "ref_feat_shape"),
}
_SET_BY_US = {
    *("dtype", "return_dict", "output_hidden_states", "output_attentions", "quantization_config"),
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"),
    *("auto_map", "attn_implementation", "experts_implementation", "tokenizer_class", "pruned_heads"),
}
_ROTARY = ("rope", "rotary", "theta")  # older names, which the library turns into its own
_LARGE = ("position", "vocab", "theta", "token_id", "_ctx", "n_words", "window")


class _Facts(BaseModel):
    """What of timm's ``pretrained_cfg`` says how pictures are read, and where the classifier is."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input_size: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (3, 224, 224), min_length=3, max_length=3
    )
    fixed_input_size: bool = False
    interpolation: str = "bicubic"
    crop_pct: int | float = Field(0.875, gt=0.1, le=2)
    crop_mode: str = "center"
    mean: tuple[int | float, ...] = Field((0.5,) * 3, max_length=4096)
    std: tuple[Annotated[int | float, Field(gt=0)], ...] = Field((0.5,) * 3, max_length=4096)
    first_conv: str | tuple[str, ...] = ""
    classifier: str | tuple[str, ...] = ""
    num_classes: int = Field(1000, ge=0, le=MOST)
    license: str = ""
    label_names: tuple[str, ...] = Field((), max_length=MOST_ENTRIES)


def timm_facts(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The part of a ``pretrained_cfg`` that is used, as plain values; ``what`` names the model in errors.

    Raises:
        BackboneError: a value of another kind, or out of its bounds.
    """
    try:
        given = _Facts.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BackboneError(
            f"{what}: pretrained_cfg.{place} of its configuration: {first['msg']}."
        ) from None
    return given.model_dump(mode="json", exclude_unset=True)


def timm_arguments(values: Any, what: str) -> dict[str, Any]:
    """Settings of a network's shape, as a configuration's ``model_args`` gives them to timm.

    Raises:
        BackboneError: another setting, as the path of a file, or a value that is no plain one.
    """
    if not isinstance(values, Mapping):
        raise BackboneError(f"{what}: model_args of its configuration is no table.")
    foreign = sorted(map(str, values.keys() - _TIMM_ARGUMENTS))
    if foreign:
        raise BackboneError(
            f"{what}: its configuration sets {quote('model_args.' + foreign[0])}, which is no setting of a "
            "network's shape that graft hands on to timm. Leave it out."
        )
    check_sizes(values, what, most=MOST_TIMM)
    return dict(values)


def transformers_settings(
    kind: type, network: type, values: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """Settings that a configuration ``kind`` declares or its ``network`` reads, without kernels and files.

    Raises:
        BackboneError: a value beyond all bounds.
    """
    known = {each.name for each in dataclasses.fields(kind)} | set(getattr(kind, "attribute_map", {}))
    known |= {"model_type", *_read_by(network)}
    known |= {name for name in values if any(each in name for each in _ROTARY)}
    found = _without_ours({name: value for name, value in values.items() if name in known})
    check_sizes(found, what, most=MOST)
    return found


@cache
def _read_by(network: type) -> frozenset[str]:
    """Names that the code of a network reads of its configuration, some of which none declares."""
    code = inspect.getsource(inspect.getmodule(network) or network)
    return frozenset(re.findall(r'config(?:\.|, ")(\w+)', code))


def read_pooling(value: Any, what: str) -> Pooling:
    """How a stored configuration pools; raises BackboneError where that is none of the ways."""
    for pooling in get_args(Pooling):
        if pooling == value:
            known: Pooling = pooling
            return known
    raise BackboneError(f"{what} pools by {quote(value)}; {get_args(Pooling)} are known.")


def check_sizes(values: Mapping[str, Any], what: str, *, most: int) -> None:
    """Raises BackboneError where a value, however deep, is larger than any that a network has."""
    for name, value in _leaves(values, ""):
        allowed = MOST_POSITIONS if any(part in name for part in _LARGE) else most
        if isinstance(value, str):
            fits = len(value) <= MOST_TEXT
        elif isinstance(value, int):
            fits = abs(value) <= allowed
        else:
            fits = value is None or (isinstance(value, float) and math.isfinite(value))
        if not fits:
            raise BackboneError(
                f"{what}: its configuration sets {shorten(name)} = {quote(value)}, "
                "beyond what networks have."
            )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no list or table, with its dotted name."""
    if isinstance(value, Mapping | list | tuple):
        if len(value) > MOST_ENTRIES:
            yield name, math.inf
            return
        pairs = value.items() if isinstance(value, Mapping) else ((name, each) for each in value)
        for key, inner in pairs:
            yield from _leaves(inner, str(key) if isinstance(value, Mapping) else name)
    else:
        yield name, value


def _without_ours(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and its parts, without what graft sets itself, or never hands on."""
    return {
        name: _without_ours(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not str(name).startswith("_") and name not in _SET_BY_US
    }
