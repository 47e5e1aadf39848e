"""The frozen weights of adapted layers in 4 bits (QLoRA, Dettmers et al., 2023), by bitsandbytes.

Only linear layers with an adapter are quantized: they hold nearly all weights of a large network, and the
adapter makes up for what rounding takes. Embeddings, norms and the head stay as they are. Weights are put
into 4 bits when the network is moved to its CUDA device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graft.adapters.injection import lora_layers


def quantize(trunk: nn.Module) -> None:
    """Put bitsandbytes' layers in the place of the linear layers that adapters are around, in place."""
    for layer in lora_layers(trunk).values():
        if type(layer.base_layer) is nn.Linear:
            layer.base_layer = _in_four_bits(layer.base_layer)


def _in_four_bits(layer: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        small: Any = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
    weight = layer.weight.detach().contiguous()
    small.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=small)
    small.bias = layer.bias
    module: nn.Module = small.train(layer.training)
    return module
