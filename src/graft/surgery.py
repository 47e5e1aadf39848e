"""Building blocks that work on any nn.Module, for people with a training loop of their own.

Freeze and thaw whole networks or stages of them, find and replace the classifier, cut a network off
above a stage, group parameters for an optimiser, and look at what there is. Nothing here needs a
``Backbone``; where one is at hand, its stages can be given so that no trace is made again.

Frozen means two things: no gradients, and eval mode (batch-norm statistics, dropout and stochastic
depth stand still). ``model.train()`` sets modes back: call :func:`set_training_mode` in its place.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.catalog import fits
from graft.backbones.contract import Stage
from graft.backbones.heads import HeadKind, find_heads, head_of, make_head, remove_head, replace_head
from graft.backbones.locating import Classifier, locate_heads
from graft.backbones.staging import cut_stages
from graft.backbones.tracing import trace_network
from graft.backbones.truncation import Truncated, is_within, leaf_names
from graft.batchnorm import StaysInEval, freeze_batchnorm, running_norms, unfreeze_batchnorm
from graft.errors import BackboneError, quote, suggest

__all__ = [
    "HeadKind",
    "count_parameters",
    "freeze",
    "freeze_batchnorm",
    "head_of",
    "make_head",
    "param_groups",
    "remove_head",
    "replace_head",
    "set_training_mode",
    "stages_of",
    "summary",
    "truncate",
    "unfreeze",
    "unfreeze_batchnorm",
]

Selection = str | Stage | Iterable[str | Stage] | None


def freeze(module: nn.Module, stages: Selection = None, *, example: Tensor | None = None) -> None:
    """Freeze all of ``module``, or some stages of it, in place: no gradients, eval mode.

    Args:
        stages: stages (of :func:`stages_of` or of a backbone), or names of modules or parameters,
            or beginnings of them up to a dot ("layer1", "blocks.3"), or names that no part of the
            module has and a stage of :func:`stages_of` does ("stem"), or "head" for the whole
            classifiers wherever they are, or else parts of names ("bn", "layer") and patterns
            ("layer[34].*"); None: everything.
        example: as in :func:`stages_of`; only looked at for such names of stages.

    Raises:
        BackboneError: a name that the module does not have.
    """
    _switch(module, stages, example, on=False)


def unfreeze(module: nn.Module, stages: Selection = None, *, example: Tensor | None = None) -> None:
    """Let all of ``module``, or some stages of it, train again; the reverse of :func:`freeze`."""
    _switch(module, stages, example, on=True)


def set_training_mode(
    module: nn.Module,
    stages: Sequence[Stage],
    trainable: Collection[str],
    *,
    statistics: Collection[str] = (),
) -> None:
    """Set train and eval mode as training some stages needs it; call it in place of ``.train()``.

    Stages that train are in train mode; all others wholly in eval mode, with their dropout and
    stochastic depth. A module that holds parts of several stages is in train mode only when all of
    them train. Which parameters have gradients is left as it is.

    Args:
        stages: all stages of ``module``.
        trainable: names of the stages that train.
        statistics: names of those stages among them whose batch-norm statistics follow the batches;
            all other batch-norm layers are in eval mode.

    Raises:
        BackboneError: a name that is no stage, or statistics of a stage that does not train.
    """
    names = [stage.name for stage in stages]
    for wrong in {*trainable, *statistics} - set(names):
        raise BackboneError(f"There is no stage {quote(wrong)}: {', '.join(names)}.{suggest(wrong, names)}")
    for wrong in set(statistics) - set(trainable):
        raise BackboneError(
            f"The stage {quote(wrong)} does not train, so its statistics cannot follow the batches."
        )
    live = {m for stage in stages if stage.name in trainable for m in stage.modules}
    resting = set() if set(names) <= set(trainable) else set(leaf_names(module)) - live
    for name, child in module.named_modules():
        child.training = not any(is_within(leaf, name) for leaf in resting)
    following = [leaf for stage in stages if stage.name in statistics for leaf in stage.modules]
    norms = {id(layer) for layer in running_norms(module)}
    for name, layer in module.named_modules():
        if id(layer) not in norms:
            continue
        # Some norms hold their activation as a leaf of their own.
        if isinstance(layer, StaysInEval) or not any(is_within(leaf, name) for leaf in following):
            layer.training = False


def stages_of(module: nn.Module, example: Tensor | None = None) -> tuple[Stage, ...]:
    """The stages of any network in order of execution, found by one forward pass.

    A classifier that comes last is the last of them, as a whole (see :func:`head_of`), and nothing else
    is in that stage. A backbone's stages are those without it.

    Args:
        example: a batch [B, K, height, width] that the network takes; by default one blank picture
            of the size that a timm model states, or else of 224 pixels.

    Raises:
        BackboneError: the network does not compute on such a batch.
    """
    example = make_example(module) if example is None else example
    head = _parameters_of(module, locate_heads(module))
    return cut_stages(module, trace_network(module, example), head=head)[0]


def truncate(
    module: nn.Module,
    stage: str | Stage,
    example: Tensor | None = None,
    *,
    stages: Sequence[Stage] | None = None,
) -> nn.Module:
    """A copy of ``module`` that computes up to and including ``stage`` and holds nothing above it.

    The output is the state that is handed to the next stage (for the last stage: the module's own
    output). ``module`` is left as it is; parameters and buffers are copied.

    Args:
        example: as in :func:`stages_of`; not needed where ``stages`` are given.

    Raises:
        BackboneError: no such stage, or no single tensor carries the state across its upper end.
    """
    stages = stages_of(module, example) if stages is None else stages
    names = [s.name for s in stages]
    name = stage.name if isinstance(stage, Stage) else stage
    if name not in names:
        raise BackboneError(f"There is no stage {quote(name)}: {', '.join(names)}.{suggest(name, names)}")
    at = names.index(name)
    if at == len(stages) - 1:
        return copy.deepcopy(module)
    entry = stages[at + 1].entry
    if entry is None:
        able = [lower.name for lower, upper in pairwise(stages) if upper.entry]
        raise BackboneError(
            f"The network cannot be cut off above stage {quote(name)}: more than one tensor is handed "
            f"up there. It can be cut off above: {', '.join([*able, names[-1]])}."
        )
    return Truncated(module, entry, stages[at + 1 :])


def param_groups(
    module: nn.Module,
    lr: float,
    *,
    head_lr: float | None = None,
    lowest_lr: float | None = None,
    layer_decay: float | None = None,
    weight_decay: float = 0.05,
    stages: Sequence[Stage] | None = None,
    example: Tensor | None = None,
    prefix: str = "",
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: every parameter that trains exactly once, few groups.

    The topmost stage that trains has ``lr``, the lowest ``lowest_lr``, those between follow
    geometrically; or each stage has ``layer_decay`` times the rate of the one above. The head has
    ``head_lr`` (None: ``lr``): parameters in no stage where ``stages`` are given and leave some out,
    all of the classifier that :func:`head_of` finds (and of those beside it) otherwise. Biases, norms and
    one-dimensional parameters get no decay.

    Args:
        stages: of ``module``, or of a part of it whose parameters' names begin with ``prefix``;
            None: found with ``example`` where the rates differ by stage.

    Raises:
        BackboneError: both ``lowest_lr`` and ``layer_decay`` are given, or one is not positive.
    """
    if lowest_lr is not None and layer_decay is not None:
        raise BackboneError("Give either lowest_lr or layer_decay: each fixes the rates of all stages.")
    for name, value in {"lowest_lr": lowest_lr, "layer_decay": layer_decay}.items():
        if value is not None and value <= 0.0:
            raise BackboneError(f"{name} = {value}: it must be positive.")
    graded = lowest_lr is not None or layer_decay is not None
    head = _head_parameters(module, stages, prefix) if head_lr is not None else set()
    if graded and stages is None:
        stages = stages_of(module, example)
    rates = _stage_rates(module, stages or (), head, lr, lowest_lr, layer_decay, prefix)
    plain = undecayed(module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = head_lr if head_lr is not None and name in head else rates.get(name, lr)
            decay = 0.0 if name in plain else weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def count_parameters(module: nn.Module, trainable: bool | None = None) -> int:
    """Numbers in the parameters: all, those that train (True), or those that do not (False)."""
    return sum(p.numel() for p in module.parameters() if trainable is None or p.requires_grad is trainable)


def summary(module: nn.Module, example: Tensor | None = None) -> str:
    """A readable table: children with their parameters, the head, and the stages.

    Raises:
        BackboneError: see :func:`stages_of`.
    """
    parameters = dict(module.named_parameters())
    rows = [("part", "parameters", "trainable")]
    rows += [_count_row(name, child) for name, child in module.named_children()]
    rows.append(_count_row("all", module))
    head = ", ".join(each.name for each in locate_heads(module)) or "none"
    lines = [f"{a:<28}{b:>16}{c:>16}" for a, b, c in rows]
    lines += ["", f"head: {head}", "", f"{'stage':<28}{'parameters':>16}"]
    for stage in stages_of(module, example):
        lines.append(f"{stage.name:<28}{sum(parameters[p].numel() for p in stage.parameters):>16,}")
    return "\n".join(lines)


def make_example(module: nn.Module) -> Tensor:
    """One blank picture [1, K, height, width] of the size that the network is known to take."""
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        channels = first.in_channels
    return torch.zeros(1, channels, height, width)


def _switch(module: nn.Module, stages: Selection, example: Tensor | None, *, on: bool) -> None:
    if stages is None:
        module.requires_grad_(on).train(on)
        return
    chosen = [stages] if isinstance(stages, str | Stage) else list(stages)
    parameters, modules = dict(module.named_parameters()), dict(module.named_modules())
    for inside_p, inside_m in [_select(choice, module, example) for choice in chosen]:
        for name in inside_p:
            parameters[name].requires_grad_(on)
        for name in inside_m:
            modules[name].train(on)


def _select(
    choice: str | Stage, module: nn.Module, example: Tensor | None
) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the parameters and of the modules that are meant."""
    if isinstance(choice, Stage):
        return choice.parameters, choice.modules
    wanted = [choice] if choice else []
    if choice == "head" and not hasattr(module, choice):
        wanted = [head.name for head in locate_heads(module)]
    inside_p = [n for n, _ in module.named_parameters() if any(is_within(n, each) for each in wanted)]
    inside_m = [n for n, _ in module.named_modules() if any(is_within(n, each) for each in wanted)]
    if inside_p or inside_m:
        return inside_p, inside_m
    try:
        return _select(_find_stage(choice, module, example), module, example)
    except BackboneError:
        inside_p = [name for name, _ in module.named_parameters() if choice and fits(name, choice)]
        inside_m = [name for name, _ in module.named_modules() if choice and fits(name, choice)]
        if inside_p or inside_m:
            return inside_p, inside_m
        raise


def _find_stage(choice: str, module: nn.Module, example: Tensor | None) -> Stage:
    """The stage of that name, of which the network has no part."""
    parts = [name for name, _ in (*module.named_modules(), *module.named_parameters()) if name]
    stages: dict[str, Stage] = {}
    try:
        stages = {stage.name: stage for stage in stages_of(module, example)}
        told = f"Its stages are: {', '.join(stages)}."
    except BackboneError as error:
        told = f"Its stages could not be found: {error}"
    if choice in stages:
        return stages[choice]
    raise BackboneError(
        f"Nothing in the network is named {quote(choice)}.{suggest(choice, [*stages, *parts])} "
        f"Its parts are: {', '.join(dict.fromkeys(name.split('.')[0] for name in parts))}. {told}"
    )


def _head_parameters(module: nn.Module, stages: Sequence[Stage] | None, prefix: str) -> set[str]:
    """Parameters in no stage, where stages are given and leave some out; else those of all classifiers."""
    if stages is not None:
        staged = {prefix + name for stage in stages for name in stage.parameters}
        outside = {name for name, _ in module.named_parameters() if name not in staged}
        if outside:
            return outside
    return _parameters_of(module, find_heads(module))


def _parameters_of(module: nn.Module, heads: Collection[Classifier]) -> set[str]:
    """Names of all parameters of these heads, whole."""
    return {name for name, _ in module.named_parameters() if any(is_within(name, h.name) for h in heads)}


def _stage_rates(
    module: nn.Module,
    stages: Sequence[Stage],
    head: Collection[str],
    lr: float,
    lowest_lr: float | None,
    layer_decay: float | None,
    prefix: str,
) -> dict[str, float]:
    """Learning rate by parameter name, for the stages that train."""
    training = {n for n, p in module.named_parameters() if p.requires_grad and n not in head}
    named = [[prefix + name for name in stage.parameters] for stage in stages]
    live = [names for names in named if training.intersection(names)]
    steps = max(len(live) - 1, 1)
    if lowest_lr is not None:
        layer_decay = (lowest_lr / lr) ** (1 / steps)
    decay = 1.0 if layer_decay is None else layer_decay
    return {name: lr * decay ** (len(live) - 1 - at) for at, names in enumerate(live) for name in names}


def undecayed(module: nn.Module) -> set[str]:
    """Names of parameters that take no weight decay: biases, norms, one-dimensional ones."""
    plain = {n for n, p in module.named_parameters() if p.ndim <= 1 or n.endswith("bias")}
    for name, child in module.named_modules():
        if "norm" in type(child).__name__.lower() and next(child.children(), None) is None:
            plain |= {f"{name}.{n}".lstrip(".") for n, _ in child.named_parameters(recurse=False)}
    return plain


def _count_row(name: str, module: nn.Module) -> tuple[str, str, str]:
    return name, f"{count_parameters(module):,}", f"{count_parameters(module, True):,}"
