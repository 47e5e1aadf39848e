"""What every backbone must do, whatever library it comes from. One function a promise.

Each check takes the loaded backbone (random weights, a batch of two small pictures) and raises
AssertionError with the finding; ``check_backbone`` runs them all and gives the figures of the table.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import COLOUR_ONLY, NO_ADAPTERS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graft import surgery
from graft.adapters.injection import adapt, lora_layers, merge
from graft.backbones import Backbone, load_backbone, rebuild, state_digest
from graft.errors import BackboneError, RecipeError
from graft.recipe import AdapterSettings
from graft.reuse.split import find_split, split_trunk
from small_text import write_model

CLASSES = 7
TEXT_LAYERS = 12
MOST_DISTURBED = 5  # stages that are disturbed, spread over the network: each costs a forward pass


@dataclass(frozen=True)
class Outcome:
    """Figures of a backbone that keeps the contract."""

    stages: int
    cuttable: int  # stages that can be cut off from below
    split: int  # the most stages that can run apart from those above
    saved: float  # the share of multiplications that lie in these stages
    parameters: int


def check_backbone(name: str, size: int | None) -> Outcome:
    """Run every check on ``library/name`` with random weights at ``size`` pixels (None: its own)."""
    torch.manual_seed(0)
    check_head(name, size)
    backbone = load_backbone(f"{name}:none", size=size)
    pictures = backbone.preprocess.noise(2)
    check_features(backbone, pictures)
    check_stages(backbone)
    check_disturbance(backbone, pictures)
    check_truncation(backbone, pictures)
    split, saved = check_split(backbone, pictures)
    check_groups(backbone)
    check_round_trip(backbone, pictures)
    check_frozen(backbone, pictures)
    check_partly_frozen(backbone, pictures)
    if name in NO_ADAPTERS:
        with pytest.raises(RecipeError, match="has no layer"):
            adapt(backbone, AdapterSettings(), backbone.stage_names)
    else:  # on weights that the steps above have not moved
        check_adapters(load_backbone(f"{name}:none", size=size), pictures)
    for channels in (1, 5):
        check_channels(name, size, channels)
    return outcome_of(backbone, split, saved)


def outcome_of(backbone: Backbone, split: int, saved: float) -> Outcome:
    return Outcome(
        stages=len(backbone.stages),
        cuttable=sum(stage.entry is not None for stage in backbone.stages),
        split=split,
        saved=saved,
        parameters=sum(p.numel() for p in backbone.trunk.parameters()),
    )


def check_text(kind: str, folder: Path) -> Outcome:
    """Run every check that holds for texts on a random network of this type, of 12 small layers."""
    deep = dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer"), TEXT_LAYERS)
    backbone = load_backbone(f"hf/{write_model(folder, kind, **deep)}")
    texts = backbone.preprocess.noise(2)
    check_features(backbone, texts)
    check_stages(backbone)
    check_disturbance(backbone, texts)
    check_truncation(backbone, texts)
    split, saved = check_split(backbone, texts)
    check_groups(backbone)
    check_round_trip(backbone, texts)
    check_frozen(backbone, texts)
    check_partly_frozen(backbone, texts)
    check_adapters(backbone, texts)
    return outcome_of(backbone, split, saved)


def check_adapters(backbone: Backbone, inputs: Tensor) -> None:
    """Adapters change nothing at first, move nothing but themselves, and can be added and taken away."""
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    adapted = adapt(backbone, AdapterSettings(rank=2, alpha=4), backbone.stage_names)
    assert adapted.adapters is not None
    trunk, names = adapted.trunk.eval(), set(adapted.adapters.parameters)
    plain = run(backbone.trunk, inputs)
    assert_close(run(trunk, inputs), plain, "adapters that hold nothing change the features")
    check_stages(adapted)
    sizes = {name: parameter.numel() for name, parameter in trunk.named_parameters()}
    told = sum(target.parameters for target in adapted.adapters.targets)
    assert sum(sizes[name] for name in names) == told, "targets are told with other numbers of parameters"
    parameters = dict(trunk.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    resting = {name: v.clone() for name, v in trunk.state_dict().items() if name not in names}
    with torch.no_grad():  # an adapter that begins with zeros passes nothing back to its first half
        for name in names:
            parameters[name].add_(0.02 * torch.randn_like(parameters[name]))
    trunk(inputs).square().sum().backward()
    unmoved = [name for name in names if parameters[name].grad is None]
    assert not unmoved, f"adapters of no effect: {unmoved[:3]}"
    training = [parameters[name] for name in names]
    nn.utils.clip_grad_norm_(training, 0.01)
    torch.optim.SGD(training, lr=1.0).step()
    moved = [n for n, v in trunk.state_dict().items() if n in resting and not torch.equal(v, resting[n])]
    assert not moved, f"training adapters moved {moved[:3]}"
    learnt = run(trunk, inputs)
    rounding = rounding_of(trunk, inputs)
    layers = lora_layers(trunk).values()
    for layer in layers:
        layer.merge()
    assert_close(run(trunk, inputs), learnt, "merging changes the features", rounding)
    for layer in layers:
        layer.unmerge()
    for name, value in trunk.state_dict().items():
        if name in resting and value.is_floating_point():
            assert torch.allclose(value, resting[name], atol=1e-6, rtol=1e-6), f"unmerging moved {name}"
    merge(trunk)
    assert_close(run(trunk, inputs), learnt, "the merged network gives other features", rounding)
    assert trunk.state_dict().keys() == before.keys(), "merging does not give the plain network back"
    same = [torch.equal(value, before[name]) for name, value in backbone.trunk.state_dict().items()]
    assert all(same), "adapting changed the network that was given"


def rounding_of(trunk: nn.Module, inputs: Tensor) -> float:
    """How far features move when inputs are rounded otherwise: random networks may amplify that a lot."""
    if not inputs.is_floating_point():
        return 0.0
    return float((run(trunk, inputs * (1 + 2e-7)) - run(trunk, inputs)).abs().max())


def assert_close(found: Tensor, expected: Tensor, finding: str, rounding: float = 0.0) -> None:
    """To 1e-5, absolute plus relative; or to four times what ``rounding`` alone does to the features."""
    worst = float((found - expected).abs().max())
    bound = max(1e-5 * max(1.0, float(expected.abs().max())), 4 * rounding)
    close = torch.allclose(found, expected, atol=bound, rtol=1e-5)
    assert close, f"{finding}: by {worst:.2g}"


def check_head(name: str, size: int | None) -> None:
    """The classifier of the library's own network is found and replaced."""
    model, example = build_full(name, size)
    surgery.head_of(model)
    new = surgery.replace_head(model, CLASSES)
    with torch.no_grad():
        scores = model.eval()(example)
    assert tuple(scores.shape) == (2, CLASSES), f"scores after replace_head: {tuple(scores.shape)}"
    assert any(child is new for child in model.modules()), "the new head is not in the network"
    found = surgery.head_of(model)[1]
    assert found is new, f"head_of finds {found}, not the new head"


def build_full(name: str, size: int | None) -> tuple[nn.Module, Tensor]:
    """The library's own network with its classifier, and two pictures for it."""
    library, _, model_name = name.partition("/")
    generator = torch.Generator().manual_seed(1)
    if library == "torchvision":
        from graft.backbones.torchvision import build_model, find_weights

        preset = find_weights(model_name, None)
        pixels = size or preset.transforms().crop_size[0]
        return build_model(model_name, preset, size), torch.randn(2, 3, pixels, pixels, generator=generator)
    import timm

    config: Any = timm.get_pretrained_cfg(model_name)
    options = {"img_size": size} if size and config.fixed_input_size else {}
    pixels = size or config.input_size[1]
    model = timm.create_model(model_name, num_classes=10, **options)
    return model, torch.randn(2, 3, pixels, pixels, generator=generator)


def check_features(backbone: Backbone, pictures: Tensor) -> None:
    features = run(backbone.trunk, pictures)
    assert tuple(features.shape) == (2, backbone.feature_dim), tuple(features.shape)
    assert bool(torch.isfinite(features).all()), "features are not finite"


def check_stages(backbone: Backbone) -> None:
    """Every trunk parameter in exactly one stage, unique names, existing modules and entries."""
    staged = [name for stage in backbone.stages for name in stage.parameters]
    own = [name for name, _ in backbone.trunk.named_parameters()]
    assert sorted(staged) == sorted(own), set(staged) ^ set(own)
    assert len(set(backbone.stage_names)) == len(backbone.stages), backbone.stage_names
    modules = dict(backbone.trunk.named_modules())
    placed = [name for stage in backbone.stages for name in stage.modules]
    assert len(set(placed)) == len(placed), "a module is in two stages"
    assert set(placed) <= set(modules)
    assert all(stage.entry is None or stage.entry in modules for stage in backbone.stages)
    assert len(backbone.stages) >= 2, f"one giant stage: {backbone.stage_names}"


def check_disturbance(backbone: Backbone, pictures: Tensor) -> None:
    """Changing a stage changes the features, and no activation of any stage below."""
    clean, features = record(backbone.trunk, pictures)
    for number in spread(len(backbone.stages), MOST_DISTURBED):
        stage = backbone.stages[number]
        with disturbed(backbone.trunk, stage.parameters):
            found, moved = record(backbone.trunk, pictures)
        for lower in backbone.stages[:number]:
            changed = [m for m in lower.modules if clean.get(m) != found.get(m)]
            assert not changed, f"disturbing {stage.name} changed {changed[:3]} of {lower.name}"
        assert not torch.equal(features, moved), f"disturbing {stage.name} changed nothing"


def check_truncation(backbone: Backbone, pictures: Tensor) -> None:
    """A network cut off in its middle gives what the stage above would have been given."""
    able = [number for number, stage in enumerate(backbone.stages) if stage.entry]
    if not able:
        return
    at = able[len(able) // 2]
    given: list[Tensor] = []
    entry = backbone.trunk.get_submodule(str(backbone.stages[at].entry))
    handle = entry.register_forward_pre_hook(lambda _module, args: given.append(args[0].clone()))
    run(backbone.trunk, pictures)
    handle.remove()
    lower = surgery.truncate(backbone.trunk, backbone.stages[at - 1], stages=backbone.stages)
    held = {name.removeprefix("network.") for name, _ in lower.named_parameters()}
    above = {name for stage in backbone.stages[at:] for name in stage.parameters}
    assert torch.equal(run(lower, pictures), given[0]), "truncated output differs"
    assert not held & above, f"parameters above the cut are held: {list(held & above)[:3]}"


def check_split(backbone: Backbone, pictures: Tensor) -> tuple[int, float]:
    """Both parts of a network together give the features of the whole; how high it can be split."""
    split = find_split(backbone, len(backbone.stages) - 1)
    if split is None:
        return 0, 0.0
    trunk = backbone.trunk
    surgery.freeze(trunk)  # the counter follows gradients, and fails on views of parameters made without
    with FlopCounterMode(display=False) as counter:
        whole = run(trunk, pictures)
    every = counter.get_total_flops()
    with split_trunk(trunk, split, backbone.preprocess) as lower, torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            state = lower(pictures)
        below = counter.get_total_flops()
        if not backbone.takes_text:  # whose rows are as long as each text is
            assert tuple(state.shape) == (2, *split.row), tuple(state.shape)
        parts = run(trunk, state)
    assert torch.allclose(parts, whole, rtol=1e-5, atol=1e-5), "the parts give other features"
    assert 0 <= below < every
    surgery.unfreeze(trunk)
    return split.place, below / every


def check_groups(backbone: Backbone) -> None:
    """Optimiser groups hold exactly what trains, each parameter once."""
    trunk = backbone.trunk
    surgery.freeze(trunk)
    half = backbone.stages[len(backbone.stages) // 2 :]
    surgery.unfreeze(trunk, half)
    groups = surgery.param_groups(trunk, 1e-3, layer_decay=0.7, stages=backbone.stages)
    held = [id(p) for group in groups for p in group["params"]]
    wanted = {id(p) for p in trunk.parameters() if p.requires_grad}
    assert len(held) == len(set(held)) and set(held) == wanted
    assert len(groups) <= 2 * len(half)
    surgery.unfreeze(trunk)


def check_round_trip(backbone: Backbone, pictures: Tensor) -> None:
    """State saved and loaded into a network rebuilt from its source gives equal features."""
    other = rebuild(backbone.source, backbone.preprocess)
    assert other.stages == backbone.stages and other.preprocess == backbone.preprocess
    other.trunk.load_state_dict(copy.deepcopy(backbone.trunk.state_dict()))
    assert torch.equal(run(other.trunk, pictures), run(backbone.trunk, pictures))


def check_frozen(backbone: Backbone, pictures: Tensor) -> None:
    """Two steps of a head on a frozen trunk leave every byte of the trunk as it was."""
    trunk = backbone.trunk
    surgery.freeze(trunk)
    trunk.train()  # what a careless loop does ...
    surgery.set_training_mode(trunk, backbone.stages, ())  # ... and what ours does
    assert not any(module.training for module in trunk.modules())
    before = state_digest(trunk)
    train_steps(trunk, backbone.feature_dim, pictures)
    assert state_digest(trunk) == before, "the frozen trunk moved"


def check_partly_frozen(backbone: Backbone, pictures: Tensor) -> None:
    """Two steps with the top stage training move it, and nothing in the stages below."""
    trunk, (*lower, top) = backbone.trunk, backbone.stages
    surgery.freeze(trunk)
    surgery.unfreeze(trunk, top)
    surgery.set_training_mode(trunk, backbone.stages, [top.name])
    resting = stage_state(trunk, lower)
    moving = stage_state(trunk, [top])
    train_steps(trunk, backbone.feature_dim, pictures)
    changed = [n for n, value in stage_state(trunk, lower).items() if not torch.equal(value, resting[n])]
    assert not changed, f"frozen values moved: {changed[:3]}"
    now = stage_state(trunk, [top])
    assert any(not torch.equal(now[n], moving[n]) for n in now), "the top stage did not train"


def check_channels(name: str, size: int | None, channels: int) -> None:
    """Other numbers of channels work, or are refused in words where the network is made for colour."""
    if name in COLOUR_ONLY:
        with pytest.raises(BackboneError, match="channels"):
            load_backbone(f"{name}:none", size=size, channels=channels)
        return
    backbone = load_backbone(f"{name}:none", size=size, channels=channels)
    assert backbone.preprocess.channels == channels
    features = run(backbone.trunk, backbone.preprocess.noise(2))
    assert tuple(features.shape) == (2, backbone.feature_dim)


def run(trunk: nn.Module, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        output = trunk.eval()(pictures)
    assert isinstance(output, Tensor)
    return output


def train_steps(trunk: nn.Module, features: int, pictures: Tensor) -> None:
    head = surgery.make_head(features, CLASSES)
    live = [p for p in (*trunk.parameters(), *head.parameters()) if p.requires_grad]
    # Adam's step does not depend on the size of gradients, which random weights make tiny.
    optimizer = torch.optim.Adam(live, lr=1e-2, eps=1e-30)
    for _ in range(2):
        loss = nn.functional.cross_entropy(head(trunk(pictures)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def stage_state(trunk: nn.Module, stages: Any) -> dict[str, Tensor]:
    """Copies of parameters and buffers of these stages."""
    own = {name for stage in stages for name in stage.parameters}
    modules = tuple(f"{m}." for stage in stages for m in stage.modules)
    state = {n: p for n, p in trunk.named_parameters() if n in own}
    state |= {n: b for n, b in trunk.named_buffers() if n.startswith(modules)}
    return {name: value.detach().clone() for name, value in state.items()}


def record(trunk: nn.Module, pictures: Tensor) -> tuple[dict[str, str], Tensor]:
    """Hashes of what every leaf module puts out at its first call, and the features."""
    seen: dict[str, str] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.setdefault(name, digest(output))

        return hook

    leaves = [(n, m) for n, m in trunk.named_modules() if next(m.children(), None) is None]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return seen, run(trunk, pictures)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for handle in handles:
            handle.remove()


def digest(value: Any) -> str:
    if isinstance(value, Tensor):
        return hashlib.sha1(
            value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        ).hexdigest()
    if isinstance(value, list | tuple):
        return "/".join(digest(part) for part in value)
    return repr(type(value))


@contextmanager
def disturbed(trunk: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    parameters = dict(trunk.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in names}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in names:
            noise = torch.randn(kept[name].shape, generator=generator)
            parameters[name].add_(noise * (kept[name].std(unbiased=False) + 0.02))
        try:
            yield
        finally:
            for name in names:
                parameters[name].copy_(kept[name])


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread, the last one always among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
