"""Weights from a file into a network, with nothing left over in silence.

Reads safetensors, and torch's own format without executing anything in it. Wrappers that training
scripts leave (containers, prefixes) are taken off; after that, every weight that was not loaded and
every key that was not used is excused by name or refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from graft.errors import BackboneError

State = dict[str, Tensor]

CONTAINERS = ("state_dict", "model_ema", "state_dict_ema", "model")
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "trunk.")
EXCUSED_SUFFIX = "num_batches_tracked"


def read_weights(file: Path) -> State:
    """Names and tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, unwrapped.

    Raises:
        BackboneError: no such file, another kind of file, a damaged one, or one that holds no
            weights (or would have to be executed to be read).
    """
    if not file.is_file():
        raise BackboneError(f"There is no file {file}: a file with weights was expected.")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar"):
        return _read_torch(file)
    raise BackboneError(f"{file}: weights are read from .safetensors, .pth, .pt, .bin or .ckpt files.")


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str, heads: Iterable[str]) -> None:
    """Load ``state`` into ``module``: every key, or a refusal that lists those that do not fit.

    Args:
        what: where the weights are from, for messages.
        heads: names of the modules that the network has lost; their keys are excused.

    Raises:
        BackboneError: keys missing or left over, or tensors of another shape.
    """
    own = module.state_dict()
    loose = strip_prefixes(state, own)
    excused = tuple(f"{name}." for name in heads)
    missing = [k for k in own if k not in loose and not k.endswith(EXCUSED_SUFFIX)]
    spare = [k for k in loose if k not in own and not k.startswith(excused)]
    spare = [k for k in spare if not k.endswith(EXCUSED_SUFFIX)]
    shapes = [
        f"{k}: {_shape(loose[k])} in the file, {_shape(own[k])} in the network"
        for k in own
        if k in loose and loose[k].shape != own[k].shape
    ]
    problems = [
        *_list_up("missing", missing),
        *_list_up("left over", spare),
        *_list_up("of another shape", shapes),
    ]
    if problems:
        raise BackboneError(
            f"{what} does not fit {type(module).__name__}.\n"
            + "\n".join(problems)
            + "\nGive the weights of exactly this architecture."
        )
    fitting: OrderedDict[str, Tensor] = OrderedDict((k, v) for k, v in loose.items() if k in own)
    # Some modules look at the version of their state, which safetensors files do not keep.
    fitting._metadata = own._metadata  # type: ignore[attr-defined]
    module.load_state_dict(fitting, strict=False)


def linear_head(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    """Weight [L, D] and bias [L] of the classifier called ``name``; None where it is no linear layer.

    A layer with one outcome (L = 1) tells a number, and no class.
    """
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or bias is None or weight.ndim != 2 or len(weight) < 2:
        return None
    return weight.float(), bias.float()


def read_linear_head(file: Path, name: str) -> tuple[Tensor, Tensor] | None:
    """:func:`linear_head` of a file; of a .safetensors file nothing else is read."""
    if file.suffix != ".safetensors":
        return linear_head(read_weights(file), name)
    wanted = {f"{name}.weight", f"{name}.bias"}.intersection(tensor_names(file))
    return linear_head({key: read_tensor(file, key) for key in wanted}, name)


def tensor_names(file: Path) -> list[str]:
    """What a .safetensors file holds; none where it cannot be read, which loading it will tell."""
    try:
        with safe_open(file, "pt") as stored:
            return list(stored.keys())
    except (OSError, SafetensorError):
        return []


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a .safetensors file, the rest left unread."""
    with safe_open(file, "pt") as stored:
        found: Tensor = stored.get_tensor(name)
        return found


def strip_prefixes(state: Mapping[str, Tensor], wanted: Iterable[str]) -> State:
    """Take off the known prefixes that stand between the keys of ``state`` and those wanted."""
    known = set(wanted)
    current = dict(state)
    for _ in range(len(PREFIXES)):
        options = [_without(current, prefix) for prefix in PREFIXES]
        best = max(options, key=lambda option: len(known.intersection(option)))
        if len(known.intersection(best)) <= len(known.intersection(current)):
            nested = [option for option in options if set(option) != set(current)]
            deeper = [o for o in nested if _fits_deeper(o, known, current)]
            if not deeper:
                return current
            best = deeper[0]
        current = best
    return current


def _fits_deeper(option: State, known: set[str], current: State) -> bool:
    """Whether one more prefix off ``option`` makes keys fit (``module.model.`` takes two)."""
    reach = max(len(known.intersection(_without(option, prefix))) for prefix in PREFIXES)
    return reach > len(known.intersection(current))


def _without(state: State, prefix: str) -> State:
    stripped = {key.removeprefix(prefix): value for key, value in state.items()}
    return stripped if len(stripped) == len(state) else state


def _read_safetensors(file: Path) -> State:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(
            f"{file} cannot be read as safetensors ({error}): it is damaged or incomplete. Get it anew."
        ) from None


def _read_torch(file: Path) -> State:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise BackboneError(
            f"{file} cannot be read ({_first_line(error)}): it is damaged, or holds Python objects "
            "besides tensors, which are never loaded. Save its state_dict alone."
        ) from None
    return _unwrap(content, file)


def _unwrap(content: Any, file: Path) -> State:
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return _unwrap(content[name], file)
    if not isinstance(content, Mapping):
        raise BackboneError(f"{file} holds a {type(content).__name__}; a state_dict was expected.")
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd or not content:
        names = ", ".join(odd[:5]) or "nothing at all"
        raise BackboneError(f"{file} holds no plain state_dict: besides tensors it has {names}.")
    return {str(key): value for key, value in content.items()}


def _list_up(kind: str, names: list[str], most: int = 20) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - most} more"] if len(names) > most else []
    return [f"{len(names)} {kind}:", *(f"  {name}" for name in names[:most]), *more]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
