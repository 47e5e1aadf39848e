"""The public names, pinned: a change here is a change for everybody who uses graft."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import graft

NAMES = set(
    """
    AdapterSet Backbone BackboneError Bundle BundleError DataError Evidence GraftError Interrupted Plan
    Preprocess Recipe RecipeError RunError Source Splits Stage Task Trained TrainingError
    check count_parameters doctor embed find_models fit fit_preprocess fit_steps freeze freeze_batchnorm
    from_module head_of load_backbone load_bundle make_bundle make_plan measure open_adapters param_groups
    read_embedding
    read_recipe read_splits register_library register_strategy remove_head replace_head resume
    set_training_mode stages_of summary train truncate unfreeze unfreeze_batchnorm
    """.split()  # noqa: SIM905 - forty quoted names would read worse
)


def test_the_public_names_are_these() -> None:
    assert set(graft.__all__) == NAMES


def test_every_name_is_there_documented_and_no_modules_name() -> None:
    folder = Path(graft.__file__).parent
    modules = {path.stem for path in folder.rglob("*.py")} | {
        path.name for path in folder.iterdir() if path.is_dir()
    }
    for name in NAMES:
        value = getattr(graft, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            assert name not in modules, f"{name} is a function and a module"


def test_no_function_of_any_module_bears_a_modules_name() -> None:
    folder = Path(graft.__file__).parent
    modules = {path.stem for path in folder.rglob("*.py")}
    for path in folder.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("def "):
                assert line[4:].partition("(")[0] not in modules, f"{path}: {line}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(graft, "nothing_of_this_name")


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    text = Path(graft.__file__).read_text(encoding="utf-8")
    declared = {
        line.rpartition(" as ")[2] for line in text.splitlines() if " as " in line and "    from" in line
    }
    assert declared == NAMES


def test_importing_graft_is_cheap() -> None:
    code = "import sys, graft; print([n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_advice_is_there_with_graft_alone() -> None:
    words = "import graft, sys; assert 'torch' not in sys.modules; graft.advice.logme"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
