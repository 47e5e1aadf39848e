"""Grey and hue of colours, in a few operations that give the same bits however many threads compute.

Shapes: N pictures of n pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def grey_of(colours: Tensor) -> Tensor:
    """[N, 3, n] -> [N, n]."""
    red, green, blue = colours.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def hue_turned(colours: Tensor, by: Tensor) -> Tensor:
    """[N, 3, n] in RGB with the hue of the colour space HSV turned ``by`` [N, 1] sixths of the circle.

    A channel is the value less the chroma times a trapezium of the hue: Smith (1978), in one formula.
    """
    red, green, blue = colours.unbind(1)
    value, least = colours.amax(1), colours.amin(1)
    chroma = value - least
    of_red, of_green, of_blue = green - blue, blue - red + 2 * chroma, red - green + 4 * chroma
    hue = torch.where(red == value, of_red, torch.where(green == value, of_green, of_blue))
    turned = hue / chroma.clamp_min(1e-12) + by
    places = (
        turned[:, None] + turned.new_tensor([5.0, 3.0, 1.0])[:, None]
    )  # where red, green and blue stand
    places -= 6 * (places / 6).floor_()  # remainder_ takes three times as long
    return value[:, None] - chroma[:, None] * torch.minimum(places, 4 - places).clamp_(0, 1)
