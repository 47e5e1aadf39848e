"""What the tests of strategies ask with: the stages of three networks, and phases looked up."""

from __future__ import annotations

from typing import Any

from graft.recipe import read_recipe
from graft.steps import Solve, Step, Train
from graft.strategies import Ask, plan_steps

# Of the tiny network, of a ResNet, and of timm/test_vit.
NETWORKS = {
    "tiny": ("stem", "middle", "top"),
    "resnet": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "vit": ("stem", *(f"blocks.{number}" for number in range(6))),
}
STAGES = NETWORKS["tiny"]


def ask(*, pretrained: bool = True, per_epoch: int = 10, stages: Any = STAGES, **settings: Any) -> Ask:
    return Ask(read_recipe(**settings), tuple(stages), per_epoch, pretrained)


def steps_of(**settings: Any) -> list[Step]:
    """All steps but what is chosen and calibrated at the end."""
    return [step for step in plan_steps(ask(**settings)) if isinstance(step, Solve | Train)]


def phases_of(**settings: Any) -> list[Train]:
    return [step for step in steps_of(**settings) if isinstance(step, Train)]


def last(**settings: Any) -> Train:
    return phases_of(**settings)[-1]


def kinds_of(**settings: Any) -> list[str]:
    return [step.kind for step in steps_of(**settings)]
