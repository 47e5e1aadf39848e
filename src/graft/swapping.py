"""Several adapters on one backbone in memory, chosen at each prediction.

    found = graft.open_adapters({"birds": "runs/birds", "leaves": "runs/leaves"})
    found.predict("pictures/", adapter="birds")
    found.combine("both", {"birds": 0.5, "leaves": 0.5})

Each adapter brings its own head, labels and temperature; beside these it takes well under a hundredth of
what a model of its own would.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.adapters.attention import open_attention
from graft.adapters.injection import OWN, inject, lora_layers
from graft.adapters.on_base import Base, load_base
from graft.bundle import Bundle, Parts, prove, read_parts
from graft.errors import BundleError, quote, suggest
from graft.model import Model
from graft.prediction import Predictions
from graft.recipe import AdapterSettings, DataSettings

_OF_ADAPTER = re.compile(rf"(\.lora_\w+)\.{OWN}(?=\.|$)")


@dataclass
class AdapterSet:
    """Adapters by name on one ``trunk``; made by :func:`open_adapters`."""

    trunk: nn.Module
    digest: str
    tuner: Any = None
    bundles: dict[str, Bundle] = field(default_factory=dict)
    moved: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What else an adapter's training changed, by adapter: biases and statistics, by their plain names."""
    still: dict[str, Tensor] = field(default_factory=dict)
    """The backbone's own values of those."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.bundles)

    def add(self, name: str, path: str | Path) -> None:
        """One more adapter, of a run or a bundle that was saved with ``adapters.bundle=adapter``.

        Raises:
            BundleError: the name is taken or holds a dot, no such adapter, or it is of another backbone.
        """
        self._check_new(name)
        parts = read_adapter(path)
        adapters = parts.stored.adapters
        assert adapters is not None
        if adapters.base != self.digest:
            raise BundleError(f"The adapter {path} was made on another backbone than the ones beside it.")
        self._rest()
        settings = AdapterSettings.model_validate(adapters.settings | {"bias": "none"})
        self.tuner = inject(self.trunk, settings, adapters.targets, name, tuner=self.tuner)
        self.trunk.eval().requires_grad_(False)
        self._fill(name, parts)
        try:
            prove(self.bundle(name).model, parts)
        except BundleError:
            self._forget(name)
            raise

    def remove(self, name: str) -> None:
        """Forget an adapter; raises BundleError where there is none of this name."""
        self._check_known(name)
        if len(self.bundles) == 1:
            raise BundleError(f"{quote(name)} is the only adapter, so it cannot be removed.")
        self._forget(name)

    def combine(self, name: str, shares: Mapping[str, float]) -> None:
        """A new adapter that adds what others do, each times its share; the heads are blended alike.

        Its probabilities are not calibrated.

        Raises:
            BundleError: an unknown adapter, different labels or heads, or an adapter with DoRA, whose
                parts cannot be added.
        """
        self._check_new(name)
        for part in shares:
            self._check_known(part)
        if len(shares) < 2:
            raise BundleError(f"combine {quote(name)}: two adapters or more were expected.")
        parts = [self.bundles[part] for part in shares]
        first = parts[0]
        if any(part.labels != first.labels or part.head != first.head for part in parts):
            raise BundleError(f"combine {quote(name)}: the adapters have different labels or heads.")
        if any(part.adapters and part.adapters.settings["dora"] for part in parts):
            raise BundleError(f"combine {quote(name)}: adapters with DoRA cannot be added.")
        self._rest()
        self.tuner.add_weighted_adapter(list(shares), list(shares.values()), name, combination_type="cat")
        for layer in lora_layers(self.trunk).values():
            if name in layer.scaling:
                layer.scaling[name] = 1.0  # what it adds was scaled on the way, also by rsLoRA's rule
        head = first.head.build(seed=0)
        head.load_state_dict(_blend([part.model.head.state_dict() for part in parts], [*shares.values()]))
        touched = {key for part in shares for key in self.moved[part]}
        still = {key: self.still[key] for key in touched}
        own = [still | self.moved[part] for part in shares]
        rest = 1.0 - sum(shares.values())  # the backbone's share, so that changes are what is added
        self.moved[name] = _blend([*own, still], [*shares.values(), rest])
        task = replace(first.task, temperature=1.0)
        self.bundles[name] = replace(
            first, model=Model(self.trunk, head.eval()), task=task, path=None, metrics={}, plan={}
        )

    def bundle(self, adapter: str) -> Bundle:
        """The adapter as a bundle to predict and evaluate with, until another one is asked for.

        To save it, save what its ``merged()`` gives.

        Raises:
            BundleError: there is no adapter of this name.
        """
        self._check_known(adapter)
        self._rest()
        self.tuner.set_adapter(adapter)
        self._write(self.moved[adapter])
        return self.bundles[adapter]

    def predict(
        self, data: Any, *, adapter: str, device: str = "auto", settings: DataSettings | None = None
    ) -> Predictions:
        """As :meth:`graft.Bundle.predict`, with the adapter of this name."""
        return self.bundle(adapter).predict(data, device=device, settings=settings)

    def _fill(self, name: str, parts: Parts) -> None:
        """What a bundle stored, put where it belongs: into the adapter of this name, or kept aside."""
        values, head, moved = parts.tensors, {}, {}
        for key, value in values.items():
            own = key.removeprefix("trunk.")
            if own == key:
                head[key.removeprefix("head.")] = value
            elif _OF_ADAPTER.search(own):
                self.trunk.get_parameter(_OF_ADAPTER.sub(rf"\1.{name}", own)).data.copy_(value)
            else:
                moved[_plain(own)] = value
        current = {_plain(key): value for key, value in self.trunk.state_dict().items()}
        self.still |= {key: current[key].clone() for key in moved if key not in self.still}
        own_head = parts.stored.head.build(seed=0)
        own_head.load_state_dict(head)
        self.moved[name] = moved
        self.bundles[name] = replace(parts.stored, model=Model(self.trunk, own_head.eval()))

    def _forget(self, name: str) -> None:
        self._rest()
        del self.bundles[name], self.moved[name]
        self.tuner.set_adapter(next(iter(self.bundles), []))  # the one that goes must not be in use
        self.tuner.delete_adapter(name)

    def _rest(self) -> None:
        """The backbone's own values, where an adapter brought others."""
        self._write(self.still)

    def _write(self, values: Mapping[str, Tensor]) -> None:
        places = {_plain(key): value for key, value in self.trunk.state_dict().items()}
        with torch.no_grad():
            for key, value in values.items():
                places[key].copy_(value)

    def _check_new(self, name: str) -> None:
        if name in self.bundles or not name or "." in name:
            raise BundleError(f"{quote(name)} cannot name an adapter: it is taken, empty, or holds a dot.")

    def _check_known(self, name: str) -> None:
        if name not in self.bundles:
            raise BundleError(f"There is no adapter {quote(name)}.{suggest(name, self.bundles)}")


def open_adapters(bundles: Mapping[str, str | Path], *, base: Base | None = None) -> AdapterSet:
    """Several adapters on the one backbone that they were made on, by the names that they are given here.

    ``bundles``: of each, its run or its bundle, saved with ``adapters.bundle=adapter``. ``base``: the
    backbone, or a file with its weights; by default loaded by its id.

    Raises:
        BundleError: as :func:`graft.load_bundle`; a bundle is no adapter, or of another backbone.
    """
    if not bundles:
        raise BundleError("open_adapters: one adapter or more were expected.")
    first = read_adapter(next(iter(bundles.values()))).stored
    assert first.adapters is not None
    backbone = load_base(first.source, first.preprocess, first.adapters.base, base)
    trunk = copy.deepcopy(backbone.trunk)
    open_attention(trunk)
    found = AdapterSet(trunk, first.adapters.base)
    for name, path in bundles.items():
        found.add(name, path)
    return found


def read_adapter(path: str | Path) -> Parts:
    """What a bundle that is an adapter holds; raises BundleError where it holds a whole network."""
    parts = read_parts(path)
    if parts.stored.adapters is None:
        raise BundleError(
            f"{parts.stored.path} holds its whole network, and no adapter by itself: train with "
            "--set adapters.bundle=adapter."
        )
    return parts


def _plain(name: str) -> str:
    """The name that a value has without adapters around its layer."""
    return name.replace(".base_layer", "")


def _blend(parts: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    return {
        key: sum(
            (share * part[key] for part, share in zip(parts, shares, strict=True)), torch.zeros(())
        ).to(parts[0][key].dtype)
        for key in parts[0]
    }
