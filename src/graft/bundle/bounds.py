"""Which numbers of a bundle make sense, by what its files hold: a stranger may have written them.

Every number that decides how much is allocated is compared with the header of the weights, which is as
large as what it stands for; the others have bounds that no sound bundle comes near.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from graft.backbones.contract import NOISE_LENGTH, PADDING, Encoding, Intake, Preprocess, Source
from graft.backbones.stored import Layout, Stored
from graft.bundle.value import Bundle
from graft.errors import BundleError, quote
from graft.model import Head
from graft.recipe import AdapterSettings, DataSettings

MOST_CHANNELS = 4096
MOST_PIXELS = 8192  # of a side
MOST_RESIZED = 4  # times the side that is kept, before it is cropped
MOST_TOKENS = 2**20  # of a text
TEMPERATURES = (1e-3, 1e3)
DEVIATIONS = (1e-12, 1e12)
SEGMENTS = 2  # of a text, as a pair has


def check_numbers(stored: Bundle, layout: Layout) -> None:
    """Refuse numbers out of their bounds; ``layout``: of the weights.

    Raises:
        BundleError: naming the number.
    """
    _check_head(stored.head, layout.under("head."))
    _within("task.temperature", stored.task.temperature, *TEMPERATURES)
    if isinstance(stored.preprocess, Preprocess):
        _check_pictures(stored.preprocess)
    else:
        _within("encoding.max_length", stored.preprocess.max_length, 1, MOST_TOKENS)
        _within("encoding.vocabulary", stored.preprocess.vocabulary, 1, max(2, layout.values))
    _check_options(stored.source)
    _check_adapters(stored, layout)
    _check_plan(stored)


def check_proof(stored: Bundle, golden: Layout) -> None:
    """Refuse a proof whose tensors are not two inputs of this kind and their logits.

    Raises:
        BundleError: naming the tensor.
    """
    pictures = isinstance(stored.preprocess, Preprocess)
    expected = {
        "inputs": Stored(torch.float32 if pictures else torch.int64, (2, *_input_shape(stored.preprocess))),
        "logits": Stored(torch.float32, (2, stored.head.classes)),
    }
    if golden.tensors.keys() != expected.keys():
        raise BundleError(f"its proof holds {sorted(golden.tensors)[:5]}, not inputs and logits.")
    for name, want in expected.items():
        if golden.tensors[name] != want:
            raise BundleError(f"the {name} of its proof are {golden.tensors[name]}; {want} was expected.")


def check_inputs(inputs: Tensor, intake: Intake) -> None:
    """Refuse inputs that a network of this kind cannot take, whatever their shape.

    Raises:
        BundleError: a token or segment that does not exist, a pixel that is not finite.
    """
    if isinstance(intake, Encoding):
        limits = inputs.new_tensor([intake.vocabulary, SEGMENTS])[:, None]
        if bool(((inputs < PADDING) | (inputs >= limits)).any()):
            raise BundleError(f"its proof has a token beyond the {intake.vocabulary} that there are.")
    elif not bool(torch.isfinite(inputs).all()):
        raise BundleError("its proof has inputs that are not finite.")


def _input_shape(intake: Intake) -> tuple[int, ...]:
    """The shape of one input as :meth:`Preprocess.noise` and :meth:`Encoding.noise` make it."""
    if isinstance(intake, Preprocess):
        return (intake.channels, *intake.size)
    return (2, min(NOISE_LENGTH, intake.max_length))


def _check_head(head: Head, layout: Layout) -> None:
    """The head has as many values as the weights hold for it."""
    for name, value in (("features", head.features), ("classes", head.classes), ("hidden", head.hidden)):
        _within(f"head.{name}", value, 1, 2**31)
    _all_within(
        "head.dropout", head.dropout if isinstance(head.dropout, tuple) else (head.dropout,), 0.0, 1.0
    )
    widths = (head.features, *([head.hidden] if head.kind == "mlp" else []), head.classes)
    needed = sum((before + 1) * after for before, after in pairwise(widths))
    if needed != layout.values:
        raise BundleError(
            f"head.features = {head.features} and {head.classes} classes need {needed} values; its weights "
            f"hold {layout.values} for the head."
        )


def _check_pictures(intake: Preprocess) -> None:
    _within("preprocess.mean", len(intake.mean), 1, MOST_CHANNELS, what="values")
    if len(intake.mean) != len(intake.std):
        raise BundleError("preprocess.mean and preprocess.std have different lengths.")
    _all_within("preprocess.mean", intake.mean, -DEVIATIONS[1], DEVIATIONS[1])
    _all_within("preprocess.std", intake.std, *DEVIATIONS)
    _all_within("preprocess.size", intake.size, 1, MOST_PIXELS)
    resize = intake.resize if isinstance(intake.resize, tuple) else (intake.resize or 1,)
    _all_within("preprocess.resize", resize, 1, MOST_RESIZED * max(intake.size) + MOST_RESIZED)
    _within("preprocess.max_value", intake.max_value or 1.0, *DEVIATIONS)


def _check_options(source: Source) -> None:
    channels, size = source.options.get("channels", 1), source.options.get("size")
    for name, value, most in (("channels", channels, MOST_CHANNELS), ("size", size, MOST_PIXELS)):
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise BundleError(
                f"source.options.{name} = {quote(value)}: a number of 1 to {most} was expected."
            )


def _check_adapters(stored: Bundle, layout: Layout) -> None:
    """Adapters are as wide as their stored tensors."""
    if stored.adapters is None:
        return
    try:
        settings = AdapterSettings.model_validate(stored.adapters.settings)
    except ValidationError as error:
        raise BundleError(f"adapters.settings: {error.errors()[0]['msg']}.") from None
    _within("adapters.settings.alpha", settings.alpha, 1, 2**20)
    widths = {each.shape[:1] for name, each in layout.tensors.items() if ".lora_A." in name}
    if widths - {(settings.rank,)}:
        raise BundleError(f"adapters.settings.rank = {settings.rank}: its weights have another rank.")


def _check_plan(stored: Bundle) -> None:
    """What predictions read of the plan: a table's columns, and what the recipe named of them."""
    try:
        data = TypeAdapter(dict[str, object]).validate_python(stored.plan.get("data", {}))
        TypeAdapter(list[str]).validate_python(data.get("columns", []))
        DataSettings.model_validate(data.get("named", {}))
    except ValidationError as error:
        raise BundleError(f"plan.data: {error.errors()[0]['msg']}.") from None


def _all_within(name: str, values: Iterable[float], least: float, most: float) -> None:
    for value in values:
        _within(name, value, least, most)


def _within(name: str, value: float, least: float, most: float, *, what: str = "") -> None:
    if not least <= value <= most:
        raise BundleError(f"{name} = {value}{what and f' {what}'}: {least:g} to {most:g} was expected.")
