"""What verbs share: options, the recipe that they come to, and where they write.

Heavy imports wait until a verb needs them, so that help answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.files import is_there
from graft.system.launch import find_launch

if TYPE_CHECKING:
    from rich.console import Console

    from graft.recipe import Recipe

RECIPES = {".toml": "toml"}
"""What suffixes of a recipe's file mean, for :func:`check_out`."""
Out = Annotated[Path | None, typer.Option(help="Folder of the run; default: a new one in runs/.")]
Seed = Annotated[int | None, typer.Option(help="Everything random is a function of this number.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Epochs = Annotated[int | None, typer.Option(help="Length of the main phase.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A TOML file with recipe keys.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set train.lr=1e-4.")]
DataSet = Annotated[
    list[str] | None, typer.Option("--set", help="How data is read: --set data.label=species.")
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", "-b", help="library/name[:weights]; see graft models.")
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", "-s", help="auto (default), probe, full, gradual …: see graft strategies."),
]
Weights = Annotated[Path | None, typer.Option(help="Local file with the backbone's weights.")]
Targets = Annotated[
    str | None,
    typer.Option(
        help="Of lora: which layers get an adapter: all, attention, ends of names as query,value, or a "
        "regular expression."
    ),
]
StoreLimit = Annotated[
    float | None,
    typer.Option(metavar="GB", help="Most that the store of what frozen stages made may take on disk."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a bundle's.")]
Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="Folder of class folders, or a table of paths or texts."),
]


def asked_recipe(
    file: Path | None,
    settings: list[str] | None,
    data: str | None,
    *,
    backbone: str | None = None,
    strategy: str | None = None,
    weights: Path | None = None,
    targets: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    device: str | None = None,
    store_limit: float | None = None,
) -> Recipe:
    """What a person asked for: a file, then settings, then options.

    Raises:
        DataError: no data was named.
        RecipeError: as :func:`graft.recipe.read_recipe`.
    """
    from graft.errors import DataError
    from graft.recipe import read_recipe
    from graft.strategies import split_name

    asked = read_recipe(
        file,
        settings or (),
        data__path=data,
        backbone=backbone,
        strategy=strategy,
        weights=None if weights is None else str(weights),
        adapters__targets=targets,
        seed=seed,
        epochs=epochs,
        device=device,
        reuse__limit=store_limit,
    )
    # Before torch is imported, which takes longer than reading the answer.
    split_name(asked.strategy)
    if not asked.data.path:
        raise DataError("No data was named; give a folder of class folders or a table: graft train photos/")
    return asked


def reading_recipe(
    file: Path | None, settings: list[str] | None, device: str | None, also: Collection[str] = ()
) -> Recipe:
    """A recipe of which only the device, the way data is read and ``also`` matter; nothing else is set.

    Raises:
        RecipeError: something else is set, or as :func:`graft.recipe.read_recipe`.
    """
    from graft.errors import RecipeError
    from graft.recipe import read_recipe

    asked = read_recipe(file, settings or (), device=device)
    known = ("data.*", "device", *also)
    others = sorted(asked.model_fields_set - {"data", *known})
    if others:
        can = f"{', '.join(known[:-1])} and {known[-1]}"
        raise RecipeError(f"Of no effect here: {', '.join(others)}; only {can} can be set.")
    return asked


def check_out(
    out: Path,
    formats: Mapping[str, str],
    asked: str | None = None,
    *,
    items: Iterable[str | Path] = (),
    option: str = "--out",
) -> str:
    """The format of a file that will be written, by its suffix; refused before any work where it cannot be.

    ``formats``: what each suffix means. ``asked``: the format that was named; a file without a suffix is
    of it. ``items``: what is read, which it must not replace.

    Raises:
        RecipeError: a suffix that means nothing or something else than ``asked``; no folder, a folder in
            its place, or no permission.
    """
    from graft.errors import RecipeError

    suffix, shown = out.suffix.lower(), f"{option} {display_path(out)}"
    try:
        reason = _not_writable(out, items)
    except (OSError, ValueError) as error:
        reason = f"it cannot be written: {getattr(error, 'strerror', None) or error}"
    if reason:
        raise RecipeError(f"{shown}: {reason}.")
    meant = formats.get(suffix) or (asked if not suffix and asked in formats.values() else None)
    if meant is None:
        raise RecipeError(
            f"{shown}: the suffix says which format is written, and {suffix or 'a name without one'} does "
            f"not; expected one of {', '.join(formats)}."
        )
    if asked not in (None, meant):
        raise RecipeError(f"{shown} is {meant}, and --format {asked} was named; leave one of them out.")
    return meant


def _not_writable(out: Path, items: Iterable[str | Path]) -> str:
    """Why a file cannot be written; OSError where the system says so."""
    if not out.parent.is_dir():
        return f"there is no folder {display_path(out.parent)}; make it, or name another"
    if out.exists() and not out.is_file():
        return "it is a folder or no regular file; the name of a file was expected"
    if out.exists() and any(is_there(Path(item)) and out.samefile(item) for item in items):
        return "it is one of the items, which it would replace"
    tempfile.NamedTemporaryFile(prefix=f".{out.name}.", dir=out.parent).close()
    return ""


def paths_of(items: Iterable[str]) -> list[str | Path]:
    """Items as they were named; an empty name stays one, as a path it would be the folder one stands in."""
    return [Path(item) if item.strip() else "" for item in items]


def display_path(path: Path) -> str:
    from graft.data.items import display

    return display(str(path))


def make_console(*, stderr: bool = False) -> Console:
    """Where a verb writes; silent in all processes but the first."""
    from graft.progress import PlainConsole

    shown = sys.stderr if stderr else sys.stdout
    width = None if shown.isatty() or "COLUMNS" in os.environ else 160  # a file has no edge to wrap at
    return PlainConsole(stderr=stderr, highlight=False, quiet=not speaks(), width=width)


def speaks() -> bool:
    """Whether this is the only process, or the first of several."""
    return find_launch().main


def print_json(values: dict[str, Any]) -> None:
    """One object on standard output."""
    if speaks():
        print(json.dumps(values, indent=2, allow_nan=False))
