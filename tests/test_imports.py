"""Imports go one way, and what is slow is imported only where it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "graft"

# From the ground up: a module may import from its own layer and from those before it.
LAYERS = (
    {"errors", "system", "logs", "seeds", "metrics", "stratification", "folds", "descent", "augmentations"},
    {"files", "task", "schedule", "options"},
    {"recipe", "comparing"},
    {"backbones", "batchnorm", "surgery"},
    {"data"},
    {"contrast", "steps", "records", "numerics", "progress", "mixing", "averaging", "stochastic_depth"},
    {"adapters", "reuse", "regression", "changes"},
    {"calibration", "model", "inference", "probe"},
    {"looking"},
    {"evidence", "forward_trial"},
    {"strategies", "plan", "notes", "small_batches"},
    {"wording"},
    {"engine", "checkpoint", "leaders"},
    {"state"},
    {"adaptation", "selection", "stepping"},
    {"feeding"},
    {"solving"},
    {"training", "costs"},
    {"lr_finder", "rate_trial"},
    {"prediction"},
    {"bundle"},
    {"embedding", "swapping"},
    {"diagnosis"},
    {"run_log"},
    {"runs"},
    {"reporting"},
    {"preparation"},
    {"conclusion", "advice", "examination", "networks"},
    {"workflow"},
    {"comparison"},
    {"advice_tables", "comparison_table", "demo", "terminal", "catalog_tables", "store_table"},
    {"comparison_report"},
    {"cli_options"},
    {"cli_advice", "cli_reports"},
    {"cli", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SERVES_BUNDLES = {"bundle", "prediction", "inference", "model", "metrics"}
TRAINS = {
    "training",
    "state",
    "plan",
    "strategies",
    "checkpoint",
    "engine",
    "preparation",
    "workflow",
    "runs",
}
OWNERS = {
    "timm": {
        "backbones/timm.py",
        "backbones/bundled.py",
        "backbones/catalog.py",
        "backbones/grouping.py",
        "backbones/hf.py",
    },
    "torchvision": {
        "backbones/torchvision.py",
        "backbones/catalog.py",
        "data/transforms.py",
        "data/random_views.py",
        "data/own_views.py",
    },
    "accelerate": {"engine.py"},
    "bitsandbytes": {"adapters/quantizing.py"},
    "datasets": {"data/hub_sets.py"},
    "peft": {"adapters/injection.py"},
    "pyarrow": {"data/parquet.py", "embedding.py"},
    "captum": {"reporting/attribution.py"},
    "jinja2": {"reporting/pages.py"},
    "matplotlib": {
        "reporting/charts.py",
        "reporting/details.py",
        "reporting/drawing.py",
        "reporting/drawn.py",
    },
    "tokenizers": {"backbones/tokenizer_limits.py"},
    "transformers": {"backbones/tokenizer.py", "backbones/transformers.py"},
    "scipy": {"advice/ranking.py", "advice/scores.py", "comparing.py", "diagnosis/alike.py"},
    "sklearn": {"diagnosis/from_nothing.py", "advice/scores.py", "demo.py"},
    "tifffile": {"data/tiff.py"},
    "PIL": {
        "data/content.py",
        "data/colours.py",
        "data/image.py",
        "data/items.py",
        "demo.py",
        "diagnosis/data_checks.py",
        "reporting/details.py",
    },
    "rich": {
        "terminal.py",
        "advice_tables.py",
        "comparison_table.py",
        "catalog_tables.py",
        "store_table.py",
        "cli.py",
        "cli_options.py",
        "progress.py",
        "workflow.py",
    },
    "typer": {"cli.py", "cli_advice.py", "cli_options.py", "cli_reports.py"},
}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_module_has_its_layer() -> None:
    assert {name_of(path) for path in modules()} == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    mine = name_of(path)
    for imported in imports_of(path):
        parts = imported.split(".")
        if parts[0] != "graft" or len(parts) == 1 or parts[1] not in LEVEL:
            continue
        assert LEVEL[parts[1]] <= LEVEL[mine], f"{mine} imports {imported}"
        assert not (mine in SERVES_BUNDLES and parts[1] in TRAINS), f"{mine} imports {imported}"


def test_layers_hold_no_cycles_between_modules() -> None:
    graph = {}
    for path in modules():
        names = {name.split(".")[1] for name in imports_of(path) if name.startswith("graft.")}
        graph.setdefault(name_of(path), set()).update(names & set(LEVEL) - {name_of(path)})
    # Surgery and the adapters use each other's files: a building block needs the trace, an adapter
    # the block. Their files hold no cycle (Python would refuse them).
    graph["surgery"].discard("backbones")
    done: set[str] = set()
    while len(done) < len(graph):
        free = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert free, f"a cycle among {sorted(set(graph) - done)}"
        done |= free


@pytest.mark.odd_input("Systems")
def test_nothing_is_imported_that_only_some_systems_have() -> None:
    """Windows, which has no `fcntl`, `resource` or terminals of Unix: graft needs none of them."""
    unix = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "tty", "syslog", "posix", "select"}
    assert {str(path): found for path in modules() if (found := imports_of(path) & unix)} == {}


@pytest.mark.parametrize("library", OWNERS)
def test_libraries_are_imported_only_by_their_owners(library: str) -> None:
    users = {
        str(path.relative_to(SOURCE))
        for path in modules()
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize(
    ("verb", "heavy"),
    [
        ("--help", ["rich", "torch", "pydantic", "numpy", "PIL", "accelerate", "timm", "torchvision"]),
        ("store", ["torch", "PIL", "accelerate", "timm", "torchvision"]),
    ],
)
def test_what_needs_nothing_heavy_imports_none(verb: str, heavy: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['graft', {verb!r}]\nfrom graft.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in result.stdout, result.stdout + result.stderr
