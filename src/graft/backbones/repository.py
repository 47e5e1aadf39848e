"""The files of a model's repository: of a folder here, or of ORG/NAME on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.backbones.hub import MissingFileError, SizeHint, UncachedFileError, fetch_from_hub
from graft.errors import BackboneError
from graft.files import read_json, regular_file

ADAPTER = "adapter_config.json"  # of peft
BUNDLE = "graft.json"


def find_file(name: str, filename: str, size: SizeHint = lambda: None) -> Path:
    """The path of a file of the repository ``name``; ``size`` as in :func:`fetch_from_hub`.

    Raises:
        MissingFileError: the folder or repository has no such file.
        BackboneError: there is no such folder, ``name`` names none, or the file cannot be had.
    """
    if is_folder(name):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise BackboneError(f"There is no folder {folder}, which hf/{name} names.")
        check_folder(folder, f"hf/{name}")
        file = folder / filename
        if not file.exists():
            raise MissingFileError(f"{folder} has no {filename}: a folder with a model was expected.")
        return regular_file(file, BackboneError, within=_whole(folder))
    if not 1 <= name.count("/") + 1 <= 2 or "" in name.split("/"):
        raise BackboneError(
            f"hf/{name}: a repository hf/ORG/NAME, or a folder hf/./path or hf//path, was expected."
        )
    return fetch_from_hub(name, filename, size)


def find_config(name: str) -> Path:
    """The path of a repository's config.json; raises as :func:`find_file`, also of an adapter."""
    try:
        return find_file(name, "config.json")
    except MissingFileError:
        if not is_folder(name) and find_optional(name, ADAPTER):
            raise BackboneError(_how_to_merge(f"hf/{name}")) from None
        raise


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder that holds no whole model, or what cannot be read to its end.

    Raises:
        BackboneError: an adapter, a bundle, a pipe, a socket or a device in it.
    """
    if (folder / ADAPTER).exists():
        raise BackboneError(_how_to_merge(what))
    for bundle in (folder, folder / "bundle"):
        if (bundle / BUNDLE).exists():
            raise BackboneError(
                f"{what} is a bundle of graft, no model's folder: graft predict and graft evaluate use it "
                f"as it is. An adapter alone becomes whole with graft merge {folder} --out FOLDER."
            )
    odd = [
        each.name for each in folder.iterdir() if each.exists() and not (each.is_file() or each.is_dir())
    ]
    if odd:
        raise BackboneError(f"{folder} holds {odd[0]}, which is no regular file; take it away.")


def _how_to_merge(what: str) -> str:
    return (
        f"{what} is an adapter (LoRA) of peft, no whole model. Merge it into its base first, in Python: "
        "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(merged); then name "
        "that folder, with the base's tokenizer beside it, as hf/./merged."
    )


def _whole(folder: Path) -> Path:
    """Where files of a folder may lie: in it, or in the hub's cache that it is a snapshot of."""
    found = folder.resolve()
    return found.parent.parent if found.parent.name == "snapshots" else found


def find_optional(name: str, *filenames: str, cure: str = "") -> dict[str, Path]:
    """Those of these files that the repository has.

    ``cure``: what a person can do where that cannot be known, offline and with a part of it in the cache;
    without one, what is not in the cache is not there.

    Raises:
        BackboneError: it cannot be known.
    """
    found = {}
    for filename in filenames:
        try:
            found[filename] = find_file(name, filename)
        except UncachedFileError as error:
            if cure:
                raise BackboneError(f"{error} Whether it has one decides features: {cure}") from None
        except MissingFileError:
            continue
    return found


def is_folder(name: str) -> bool:
    """Whether ``name`` is the path of a folder, as ./path, /path or ~/path."""
    return name.startswith((".", "/", "~"))


def read_json_object(file: Path) -> dict[str, Any]:
    """Raises BackboneError where the file holds no JSON object, or is too large for a configuration."""
    values = read_json(file, BackboneError)
    if not isinstance(values, dict):
        raise BackboneError(f"{file} holds no JSON object; a configuration was expected.")
    return values
