"""graft adapts a pretrained model to your own labelled data.

    import graft

    bundle = graft.train("photos/", backbone="torchvision/resnet50")
    bundle.predict("new/")

The same in steps, each a plain value that can be looked at before the next:

    recipe = graft.read_recipe(data__path="photos/", backbone="torchvision/resnet50")
    backbone = graft.load_backbone(recipe)
    splits = graft.read_splits(recipe, backbone)
    backbone = graft.fit_preprocess(backbone, recipe, splits)
    evidence = graft.measure(recipe, backbone, splits)
    plan = graft.make_plan(recipe, backbone, splits, evidence)
    trained = graft.fit(backbone, splits, plan)

For a training loop of your own, the building blocks (``freeze``, ``replace_head``, ``stages_of`` …) work on
any nn.Module. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.backbones import from_module as from_module
    from graft.backbones import register_library as register_library
    from graft.backbones.catalog import find_models as find_models
    from graft.backbones.contract import Backbone as Backbone
    from graft.backbones.contract import Preprocess as Preprocess
    from graft.backbones.contract import Source as Source
    from graft.backbones.contract import Stage as Stage
    from graft.bundle import Bundle as Bundle
    from graft.bundle import load_bundle as load_bundle
    from graft.bundle import make_bundle as make_bundle
    from graft.data.items import Splits as Splits
    from graft.diagnosis import doctor as doctor
    from graft.embedding import embed as embed
    from graft.embedding import read_embedding as read_embedding
    from graft.errors import BackboneError as BackboneError
    from graft.errors import BundleError as BundleError
    from graft.errors import DataError as DataError
    from graft.errors import GraftError as GraftError
    from graft.errors import Interrupted as Interrupted
    from graft.errors import RecipeError as RecipeError
    from graft.errors import RunError as RunError
    from graft.errors import TrainingError as TrainingError
    from graft.evidence import Evidence as Evidence
    from graft.plan import Plan as Plan
    from graft.plan import check as check
    from graft.plan import make_plan as make_plan
    from graft.preparation import fit_preprocess as fit_preprocess
    from graft.preparation import load_backbone as load_backbone
    from graft.preparation import measure as measure
    from graft.preparation import read_splits as read_splits
    from graft.recipe import Recipe as Recipe
    from graft.recipe import read_recipe as read_recipe
    from graft.state import Trained as Trained
    from graft.strategies import register_strategy as register_strategy
    from graft.surgery import count_parameters as count_parameters
    from graft.surgery import freeze as freeze
    from graft.surgery import freeze_batchnorm as freeze_batchnorm
    from graft.surgery import head_of as head_of
    from graft.surgery import param_groups as param_groups
    from graft.surgery import remove_head as remove_head
    from graft.surgery import replace_head as replace_head
    from graft.surgery import set_training_mode as set_training_mode
    from graft.surgery import stages_of as stages_of
    from graft.surgery import summary as summary
    from graft.surgery import truncate as truncate
    from graft.surgery import unfreeze as unfreeze
    from graft.surgery import unfreeze_batchnorm as unfreeze_batchnorm
    from graft.swapping import AdapterSet as AdapterSet
    from graft.swapping import open_adapters as open_adapters
    from graft.task import Task as Task
    from graft.training import fit as fit
    from graft.training import fit_steps as fit_steps
    from graft.workflow import resume as resume
    from graft.workflow import train as train

_HOMES = {
    "backbones": ("from_module", "register_library"),
    "backbones.catalog": ("find_models",),
    "backbones.contract": ("Backbone", "Preprocess", "Source", "Stage"),
    "bundle": ("Bundle", "load_bundle", "make_bundle"),
    "data.items": ("Splits",),
    "diagnosis": ("doctor",),
    "embedding": ("embed", "read_embedding"),
    "errors": (
        "BackboneError",
        "BundleError",
        "DataError",
        "GraftError",
        "Interrupted",
        "RecipeError",
        "RunError",
        "TrainingError",
    ),
    "evidence": ("Evidence",),
    "plan": ("Plan", "check", "make_plan"),
    "preparation": ("fit_preprocess", "load_backbone", "measure", "read_splits"),
    "recipe": ("Recipe", "read_recipe"),
    "strategies": ("register_strategy",),
    "state": ("Trained",),
    "surgery": (
        "count_parameters",
        "freeze",
        "freeze_batchnorm",
        "head_of",
        "param_groups",
        "remove_head",
        "replace_head",
        "set_training_mode",
        "stages_of",
        "summary",
        "truncate",
        "unfreeze",
        "unfreeze_batchnorm",
    ),
    "swapping": ("AdapterSet", "open_adapters"),
    "task": ("Task",),
    "training": ("fit", "fit_steps"),
    "workflow": ("resume", "train"),
}
_HOME_OF = {name: f"graft.{home}" for home, names in _HOMES.items() for name in names}

_PACKAGES = ("advice",)  # whose own names are public: graft.advice.logme

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"graft.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graft' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
