"""What a result was made with: libraries, versions, the machine."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def provenance() -> dict[str, str]:
    """What the result was made with."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("graft-ml", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy", "pillow")
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):  # what is optional
            found[name] = version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": _hardware(),
        **found,
    }


def _hardware() -> str:
    """The processor, and the GPU where there is one."""
    names = [platform.processor() or platform.machine()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][
            :1
        ] or names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return " and ".join(names)
