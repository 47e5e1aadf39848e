"""Weights from a file into a network, with nothing left over in silence.

Reads safetensors, and torch's own format without executing anything in it. Wrappers that training
scripts leave (containers, prefixes) are taken off; where a file holds raw weights and their average, the
average is taken, as timm does. After that, every weight that was not loaded and every key that was not
used is excused by name or refused.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from graft.backbones.stored import load_tensors, read_layout
from graft.errors import BackboneError, first_line, quote_some
from graft.files import regular_file

State = dict[str, Tensor]

AVERAGES = (
    *("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model_state_dict"),
    *("ema_model", "model_state_dict_ema", "ema", "params_ema", "averaged_model", "average"),
    *("swa_state_dict", "swa_model_state_dict", "swa_model", "swa", "teacher"),
)
"""What scripts call the average of the weights, the likeliest first; of DINO, the teacher is one."""
RAW = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict"),
    *("state", "weights", "module", "params", "backbone", "student"),
)
PREFIXES = (
    *("module.", "model.", "_orig_mod.", "backbone.", "trunk.", "network.", "net.", "online_model."),
    *(f"{name}." for name in AVERAGES),
)
EXCUSED_SUFFIX = "num_batches_tracked"
DEEPEST = 4  # containers inside each other
_MOST_PREFIXES = 8  # of one name
_MOST_CHAINS = 8  # of prefixes that are tried, for each costs a pass over all names
_COUNTER = "n_averaged"  # beside the values of torch.optim.swa_utils.AveragedModel
_NO_STATE = ("optim", "sched", "scaler", "loss", "args", "config", "hyper")
_HARMLESS = (
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict"),
    *("datetime.datetime", "datetime.timedelta", "numpy.dtype", "numpy.float64"),
    *("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64")),
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *(f"pathlib._local.{kind}" for kind in ("PosixPath", "WindowsPath")),
)
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_SAFETENSORS = ".safetensors"
_ARCHIVE, _ALLOCATOR = b"PK\x03\x04", b"bytearray"


@dataclass(frozen=True)
class Weights:
    """What a file holds; ``average``: what it calls the average that ``state`` is, or nothing."""

    state: State
    average: str = ""

    @property
    def options(self) -> dict[str, str]:
        """What ``Source.options`` says of it."""
        return {"average": self.average} if self.average else {}


def open_weights(file: Path) -> Weights:
    """The weights in a ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file, unwrapped.

    Raises:
        BackboneError: no such file, another kind of file, a damaged one, or one that holds no
            weights (or would have to be executed to be read).
    """
    if not file.exists():
        raise BackboneError(f"There is no file {file}: a file with weights was expected.")
    regular_file(file, BackboneError)
    if is_safetensors(file):
        return _averaged(load_tensors(file, BackboneError))
    if file.suffix.lower() in _SUFFIXES:
        return _read_torch(file)
    raise BackboneError(f"{file}: weights are read from .safetensors, .pth, .pt, .bin or .ckpt files.")


def read_weights(file: Path) -> State:
    """Names and tensors of :func:`open_weights`."""
    return open_weights(file).state


def is_safetensors(file: Path) -> bool:
    return file.suffix.lower() == _SAFETENSORS


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
        adapters = any(".lora_" in name for name in spare)
        cure = (
            "It holds low-rank adapters (LoRA): merge them into their network, and give that."
            if adapters
            else "Give the weights of exactly this architecture."
        )
        raise BackboneError("\n".join([f"{what} does not fit {type(module).__name__}.", *problems, cure]))
    fitting: OrderedDict[str, Tensor] = OrderedDict((k, v) for k, v in loose.items() if k in own)
    # Some modules look at the version of their state, which safetensors files do not keep.
    fitting._metadata = own._metadata  # type: ignore[attr-defined]
    module.load_state_dict(fitting, strict=False)


def linear_head(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    """Weight [L, D] and bias [L] of the classifier called ``name``; None where it is no linear layer.

    A layer with one outcome (L = 1) gives a number, and no class.
    """
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or bias is None or weight.ndim != 2 or len(weight) < 2:
        return None
    return weight.float(), bias.float()


def read_linear_head(file: Path, name: str) -> tuple[Tensor, Tensor] | None:
    """:func:`linear_head` of a file; of a .safetensors file nothing else is read."""
    if not is_safetensors(file):
        return linear_head(read_weights(file), name)
    wanted = {f"{name}.weight", f"{name}.bias"}.intersection(tensor_names(file))
    return linear_head({key: read_tensor(file, key) for key in wanted}, name)


def tensor_names(file: Path) -> list[str]:
    """What a .safetensors file holds; none where it cannot be read, which loading it reports."""
    try:
        return list(read_layout(file, BackboneError).tensors)
    except BackboneError:
        return []


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a .safetensors file, the rest left unread."""
    with safe_open(file, "pt") as stored:
        found: Tensor = stored.get_tensor(name)
        return found


def strip_prefixes(state: Mapping[str, Tensor], wanted: Iterable[str]) -> State:
    """Take off the known prefixes that stand between the keys of ``state`` and those wanted."""
    known = set(wanted)
    chains = [chain for chain, _ in Counter(map(_prefixes_of, state)).most_common(_MOST_CHAINS)]
    parts = dict.fromkeys(chain[:most] for chain in [(), *chains] for most in range(len(chain) + 1))
    options = (_without(state, part) for part in parts)
    return max(options, key=lambda option: len(known.intersection(option)))


def _prefixes_of(name: str) -> tuple[str, ...]:
    """The known prefixes that ``name`` begins with, one after the other, as far as anybody nests them."""
    found: list[str] = []
    for _ in range(_MOST_PREFIXES):
        prefix = next((each for each in PREFIXES if name.startswith(each)), "")
        if not prefix:
            break
        found.append(prefix)
        name = name.removeprefix(prefix)
    return tuple(found)


def _without(state: Mapping[str, Tensor], chain: tuple[str, ...]) -> State:
    """``state`` with these prefixes taken off, as far as each key has them; as it is where keys meet."""
    stripped = {}
    for key, value in state.items():
        for prefix in chain:
            key = key.removeprefix(prefix)
        stripped[key] = value
    return stripped if len(stripped) == len(state) else dict(state)


class _Inert:
    """Stands in for an object beside the weights: takes what is said of it, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_torch(file: Path) -> Weights:
    _check_growth(file)
    try:
        # No class of these names is looked up: what they would make is of no use here.
        with torch.serialization.safe_globals([(_Inert, name) for name in _HARMLESS]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # the unpickler raises whatever a damaged file leads it to
        raise BackboneError(
            f"{file} cannot be read: it is damaged, or holds Python objects{_foreign_names(file)} besides "
            "tensors, which are never loaded. Save its state_dict alone."
        ) from None
    found = _find_state(content)
    if found is None:
        raise BackboneError(f"{file} holds no plain state_dict: {_describe(content)}.")
    return Weights(
        {name: _checked(value, name, file) for name, value in found.state.items()}, found.average
    )


def _check_growth(file: Path) -> None:
    """Raises BackboneError where a file would be larger in memory, which those of torch never are."""
    try:
        grows = _allocates(file) or (zipfile.is_zipfile(file) and _archive_grows(file))
    except Exception as error:  # of a damaged archive, zipfile and its decoders raise of every kind
        raise BackboneError(f"{file} is damaged: {first_line(error)}.") from None
    if grows:
        raise BackboneError(f"{file} is damaged: it would be larger in memory than it is on the disk.")


def _allocates(file: Path) -> bool:
    """Whether a file that torch reads as one pickle names the class that takes memory by a number alone.

    How it begins decides that, whatever archive lies behind.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data[: len(_ARCHIVE)] != _ARCHIVE and data.find(_ALLOCATOR) >= 0


def _archive_grows(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        inside = archive.infolist()
        if sum(each.file_size for each in inside) > file.stat().st_size:
            return True
        pickles = [each for each in inside if each.filename.endswith("data.pkl")]
        return any(_ALLOCATOR in archive.read(each) for each in pickles)


def _foreign_names(file: Path) -> str:
    """The classes of objects that a file holds, in brackets, as far as their names are plain."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # as above
        return ""
    names = sorted(name for name in found if re.fullmatch(r"[\w.]{1,80}", name) and name not in _HARMLESS)
    return f" ({', '.join(names[:3])})" if names else ""


def _find_state(content: Any, depth: int = 0) -> Weights | None:
    """The state_dict that ``content`` is or holds; averages before raw weights."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return None
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return _averaged(dict(content))
    for name in (*AVERAGES, *RAW):
        if name in content and (found := _find_state(content[name], depth + 1)) is not None:
            return Weights(found.state, name if name in AVERAGES else found.average)
    return _only_state(content) if depth == 0 else None


def _only_state(content: Mapping[Any, Any]) -> Weights | None:
    """The state_dict under a name that nobody foresaw, where there is one alone."""
    names = (str(name) for name in content if not str(name).lower().startswith(_NO_STATE))
    found = [state for name in names if (state := _find_state(content.get(name), depth=1)) is not None]
    return found[0] if len(found) == 1 else None


def _averaged(state: State) -> Weights:
    """The average, where raw weights and theirs stand in one state_dict under prefixes."""
    plain = {name: value for name, value in state.items() if name != _COUNTER}
    for average in AVERAGES:
        prefix = f"{average}."
        inside = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        raw = {_bare(name) for name in plain if not name.startswith(prefix)}
        if inside and all(_bare(name) in raw for name in inside):
            return Weights({k: v for k, v in inside.items() if k != _COUNTER}, average)
    return Weights(plain or state)


def _bare(name: str) -> str:
    return name.removeprefix("".join(_prefixes_of(name)))


def _checked(value: Tensor, name: str, file: Path) -> Tensor:
    """Raises BackboneError where a tensor is none with values of its own in this file."""
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    held = min(value.untyped_storage().nbytes(), file.stat().st_size) if dense else 0
    if not dense or value.numel() * value.element_size() > held:
        raise BackboneError(f"{file} is damaged: {name} has more values than the file holds for it.")
    return value


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    return f"besides tensors it has {quote_some(odd, most=5) or 'nothing at all'}"


def _list_up(kind: str, names: list[str], most: int = 20) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - most} more"] if len(names) > most else []
    return [f"{len(names)} {kind}:", *(f"  {name}" for name in names[:most]), *more]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
