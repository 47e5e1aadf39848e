"""The frozen weights of adapted layers in 4 bits (QLoRA, Dettmers et al., 2023), by bitsandbytes.

Only linear layers with an adapter are quantized: they hold nearly all weights of a large network, and the
adapter makes up for what rounding takes. Embeddings, norms, biases and the head stay as they are. Rounded
when the network is moved to its device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graft.adapters.injection import lora_layers


class FourBits(nn.Module):
    """A linear layer with its weight in 4 bits (NF4).

    The bias stands apart from bitsandbytes' layer, which would round a frozen one to the type of its input.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        from bitsandbytes.nn import Linear4bit, Params4bit

        with torch.device("meta"):
            small: Any = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
        # On CPUs with bf16 it would pack the weight anew when first evaluated, and what is frozen stays.
        small.support_avx512bf16_for_cpu = False
        weight = layer.weight.detach().contiguous()
        small.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=small)
        self.small, self.bias = small, layer.bias
        self.train(layer.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] -> […, outputs]."""
        outputs: Tensor = self.small(inputs)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)


def quantize(trunk: nn.Module) -> None:
    """Put a :class:`FourBits` in the place of every linear layer that an adapter is around, in place."""
    for layer in lora_layers(trunk).values():
        if type(layer.base_layer) is nn.Linear:
            layer.base_layer = FourBits(layer.base_layer)
