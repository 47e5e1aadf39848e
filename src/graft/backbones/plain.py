"""A backbone of a module of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from graft.backbones.assembly import assemble
from graft.backbones.contract import Backbone, Preprocess, Source
from graft.backbones.heads import find_heads, put_module, remove_head
from graft.backbones.locating import Classifier
from graft.backbones.tracing import Trace, trace_network
from graft.backbones.truncation import is_within
from graft.errors import BackboneError

AUTO = "auto"


def from_module(
    module: nn.Module,
    *,
    preprocess: Preprocess,
    name: str | None = None,
    head: str | None = AUTO,
    pretrained: bool = True,
    channels: int | None = None,
) -> Backbone:
    """Make a backbone of any network for pictures, in place: its classifier is taken out.

    Args:
        module: maps [B, K, height, width] to class scores or to features [B, D].
        preprocess: how pictures become its input; K is the length of its mean.
        name: under which it is recorded; None: the name of its class.
        head: dotted name of the classifier; None: there is none, the output is features; "auto":
            what :func:`graft.surgery.head_of` finds, if nothing with parameters runs after it and
            its scores are the output.
        pretrained: whether its weights are worth keeping (decides how batch-norm is treated).
        channels: number of channels that the first filter is to be adapted to; None: K.

    Raises:
        BackboneError: no such head, or the output is not [B, D].
    """
    heads = _remove_heads(module, preprocess, head)
    channels = preprocess.channels if channels is None else channels
    weights = "own" if pretrained else "none"
    options: dict[str, object] = {
        "channels": channels,
        "size": None,
        "head": heads[0] if heads else None,
    }
    source = Source("plain", name or type(module).__name__, weights, options=options)
    return assemble(module, preprocess, source, channels)


def _remove_heads(module: nn.Module, preprocess: Preprocess, head: str | None) -> list[str]:
    """Take the classifier out; the names of what is gone, the main one's first."""
    if head is None:
        return []
    if head != AUTO:
        put_module(module, head, nn.Identity())
        return [head]
    try:
        found = find_heads(module)
    except BackboneError:
        return []
    if not _is_output(found, trace_network(module, preprocess.noise(1))):
        return []
    remove_head(module)
    return [each.name for each in found]


def _is_output(heads: Sequence[Classifier], trace: Trace) -> bool:
    """Whether nothing with parameters runs after the heads, and their scores are the output."""
    last = max(trace.first_use, key=trace.first_use.__getitem__, default="")
    scores = isinstance(trace.output, Tensor) and tuple(trace.output.shape) == (1, heads[0].classes)
    return scores and any(is_within(last, head.name) for head in heads)
