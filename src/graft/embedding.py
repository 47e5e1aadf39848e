"""Features of pictures or texts, as a table; and the nearest items to one.

Features are those of the backbone, or of an adapted one, in evaluation mode. With a store, a second look at
the same items is quick. A table (Parquet) has the columns ``id``, ``text`` where items are texts, and
``features``, and knows what made it, so that a query can be embedded alike. Every query is compared with
every item: there is no index, which a million items do not need.

Shapes: N items, Q queries, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from graft.backbones import load_backbone, state_digest
from graft.backbones.contract import Backbone, Encoding, Intake, Pooling, Preprocess
from graft.backbones.repository import is_folder
from graft.bundle import Bundle, load_bundle
from graft.data import read_items
from graft.data.inputs import open_inputs
from graft.data.items import Fault, Items, Modality, Problem, Text, display, names_file, show
from graft.data.scan import Progress
from graft.data.texts import list_cut
from graft.errors import BackboneError, BundleError, DataError, RecipeError, first_line
from graft.files import kept_path, new_file, parse_json
from graft.forward_trial import choose_forward
from graft.inference import BATCH, Rows, check_finite
from graft.numerics import Numerics, resolve_numerics
from graft.recipe import DataSettings, Recipe
from graft.reuse.folding import resting
from graft.reuse.states import Lower, States, open_space
from graft.reuse.store import NOWHERE, Store

VERSION = 1
_MAKER = b"graft"  # the key in the table's metadata
_SMALLEST = 1e-12  # length of features below which they have no direction


@dataclass(frozen=True)
class Maker:
    """What made a table's features: a bundle by its folder, or a backbone by its id.

    Neither is named where only the Python session had it. ``sha256``: of the trunk's values. ``input``:
    how items were prepared, as plain values; ``size`` and ``pooling``: what loads the backbone alike.
    """

    version: int
    sha256: str
    input: dict[str, Any]
    backbone: str | None = None
    bundle: str | None = None
    size: int | None = None
    pooling: Pooling | None = None


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features float32 [N, D] of N items. ``faults``: what could not be read; ``made_by``: by what."""

    ids: tuple[str, ...]
    features: NDArray[np.float32]
    texts: tuple[str, ...] | None
    made_by: Maker
    faults: tuple[Fault, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        """Write the table, in place of what may be there; it appears when it is whole.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow
        from pyarrow import parquet

        columns = {"id": pyarrow.array(self.ids, pyarrow.string())}
        if self.texts is not None:
            columns["text"] = pyarrow.array(self.texts, pyarrow.string())
        flat = pyarrow.array(self.features.reshape(-1))
        columns["features"] = pyarrow.FixedSizeListArray.from_arrays(flat, self.features.shape[1])
        told = {_MAKER: json.dumps(asdict(self.made_by))}
        with new_file(Path(path)) as fresh:
            parquet.write_table(pyarrow.table(columns).replace_schema_metadata(told), fresh)

    def neighbours(self, query: NDArray[np.float32], count: int = 5) -> list[dict[str, Any]]:
        """The ``count`` items nearest to a query [D], best first: id, cosine, and what a text says.

        Raises:
            DataError: the query has another number of features.
        """
        if query.shape != self.features.shape[1:]:
            raise DataError(
                f"The query has the shape {query.shape}; [{self.features.shape[1]}] was expected, as many "
                "features as the items have."
            )
        lengths = self._lengths * max(float(np.linalg.norm(query)), _SMALLEST)
        cosines = np.clip(self.features @ query / lengths, -1, 1)
        places = np.argsort(-cosines, kind="stable")[:count].tolist()
        said = [{} if self.texts is None else {"text": self.texts[place]} for place in places]
        return [
            {"id": self.ids[place], "cosine": float(cosines[place]), **text}
            for place, text in zip(places, said, strict=True)
        ]

    @cached_property
    def _lengths(self) -> NDArray[np.float32]:
        """Of the items' features, [N]; without a copy of these, which may be gigabytes."""
        squares: NDArray[np.float32] = np.einsum("nd,nd->n", self.features, self.features)
        return np.maximum(np.sqrt(squares), np.float32(_SMALLEST))


def embed(
    source: str | Backbone | Bundle,
    data: Any,
    *,
    device: str = "auto",
    settings: DataSettings | None = None,
    pooling: Pooling | Literal["auto"] = "auto",
    store: Store | None = None,
    progress: Progress | None = None,
) -> Embedding:
    """Features of pictures or texts, unlabelled.

    ``source``: a backbone, its id, or a bundle, whose adapted backbone is taken. ``data`` as for
    ``Bundle.predict``: pictures, files and folders of them; texts, tables and files of texts. ``settings``
    say how data is read; where ``source`` is an id, also how the network takes it (channels, size,
    max_value, background, max_length). ``pooling``: of texts, where ``source`` is an id, what of the
    network's last states stands for one; auto: as its makers have it. ``store``: where features are kept
    for another time. ``progress`` is called with (items done, all of them), of reading first and then of
    computing.

    Raises:
        DataError: nothing is found, or nothing of it can be read.
        RecipeError: a setting of no effect, or no such device.
        BackboneError: no such backbone, or one without texts to pool.
        TrainingError: features are not finite.
    """
    asked = settings or DataSettings()
    numerics = resolve_numerics(Recipe(device=device))
    if pooling != "auto" and not isinstance(source, str):
        raise RecipeError("Of no effect here: pooling; it can be set where a backbone is named by its id.")
    backbone = _backbone_of(_load(source, asked, pooling) if isinstance(source, str) else source)
    intake, modality = backbone.preprocess, backbone.preprocess.modality
    if getattr(data, "ndim", 0) == 4:  # an array or tensor of several pictures
        data = list(data)
    found = read_items(data, _reading(asked, intake), progress, modality)
    items, faults, problems = found.items, found.faults, found.problems
    if not len(items):
        raise DataError(_nothing(faults, problems, modality))
    if isinstance(intake, Encoding):
        problems = (*problems, *list_cut(items, intake))
    maker = _maker(source, backbone)
    features = compute_features(backbone, items, numerics, store=store or NOWHERE, progress=progress)
    texts = tuple(each.words for each in items.sources if isinstance(each, Text))
    said = texts if backbone.takes_text else None
    return Embedding(items.ids, features.numpy(), said, maker, faults, problems)


def embed_queries(
    backbone: Backbone, queries: Sequence[str], *, device: str = "auto"
) -> NDArray[np.float32]:
    """Features [Q, D] of texts, or of pictures by their paths, in their order.

    Raises:
        DataError: one cannot be read.
        RecipeError: no such device.
    """
    numerics, modality = resolve_numerics(Recipe(device=device)), backbone.preprocess.modality
    given = [_text_query(each) if backbone.takes_text else _picture_query(each) for each in queries]
    found = read_items(given, _reading(DataSettings(), backbone.preprocess), modality=modality)
    if found.faults:
        lines = [f"The query {fault.id} cannot be read: {fault.reason}" for fault in found.faults]
        raise DataError("\n".join([*lines, "The table is of pictures; the path of one was expected."]))
    features = compute_features(backbone, found.items, numerics).numpy()
    return features[[each.item for each in found.given if each.item is not None]]


def compute_features(
    backbone: Backbone,
    items: Items,
    numerics: Numerics,
    *,
    store: Store = NOWHERE,
    progress: Progress | None = None,
) -> Tensor:
    """Features [N, D] of items, by the fastest way that says the same. The trunk keeps its mode.

    Raises:
        TrainingError: features are not finite.
    """
    device, inputs = torch.device(numerics.device), open_inputs(items, backbone.preprocess, keep=False)
    rows, done = Rows(range(len(items))), 0
    modes = {module: module.training for module in backbone.trunk.modules()}
    try:
        chosen = choose_forward(backbone, items, numerics, passes=1, seed=0)
        how = chosen.forward if chosen else numerics.forward
        with resting(backbone.trunk, backbone.preprocess, how, device):
            lower = Lower(backbone.trunk, device, partial(how.autocast, device), how.batch)
            space = open_space(
                store, backbone, backbone.trunk, lower, inputs, upper=(), precision=how.precision
            )
            order, size = inputs.order(range(len(items))), max(BATCH, how.batch)
            batches = [order[start : start + size] for start in range(0, len(order), size)]
            for found, _, numbers in States(inputs, lower, space).batches(batches, numerics.workers):
                rows.add(numbers, found.float())
                done += len(found)
                if progress is not None:
                    progress(done, len(items))
    finally:
        for module, mode in modes.items():
            module.training = mode
    features = rows.whole
    check_finite(features, items)
    return features


def read_embedding(path: str | Path) -> Embedding:
    """A table that :meth:`Embedding.save` wrote.

    Raises:
        DataError: it is missing, cannot be read, or is no such table; or a newer graft wrote it.
    """
    import pyarrow
    from pyarrow import parquet

    file = Path(path)
    if not file.is_file():  # a pipe would never end
        raise DataError(f"There is no file {file}; graft embed writes one.")
    try:
        table = parquet.ParquetFile(file).read()
    except (OSError, pyarrow.ArrowException) as error:
        raise _no_table(file, first_line(error)) from None
    maker = _read_maker(table, file)
    if not _is_right(table):
        raise _no_table(file, "its columns are not id, text and features as they are written")
    # A copy, for what Arrow hands out cannot be written to, of which torch warns.
    features = np.array(table.column("features").combine_chunks().flatten())
    if not np.isfinite(features).all():
        raise _no_table(file, "features are not finite")
    texts = tuple(table.column("text").to_pylist()) if "text" in table.column_names else None
    ids = tuple(table.column("id").to_pylist())
    return Embedding(ids, features.reshape(len(ids), -1), texts, maker)


def load_maker(table: Embedding) -> Backbone:
    """What made a table's features, to embed a query alike.

    Raises:
        DataError: it cannot be loaded any more, or is no longer what it was.
    """
    maker = table.made_by
    name = maker.bundle or maker.backbone
    if name is None:
        raise DataError(
            "The table was made by a network that only a Python session had; embed queries with it there, "
            "and ask the table for their neighbours."
        )
    try:
        backbone = _backbone_of(load_bundle(name)) if maker.bundle else _load_again(maker)
    except (BackboneError, BundleError) as error:
        raise DataError(f"{name} made the table and cannot be loaded: {error}") from None
    changed = [] if state_digest(backbone.trunk) == maker.sha256 else ["weights"]
    changed += [] if _plain(backbone.preprocess) == maker.input else ["preparation of items"]
    if changed:
        raise DataError(
            f"{name} has another {' and '.join(changed)} than when it made the table, so a query cannot be "
            "compared with it; make the table again with graft embed."
        )
    return backbone


def _load(name: str, settings: DataSettings, pooling: Pooling | Literal["auto"]) -> Backbone:
    """A backbone by its id, that takes items as the settings say."""
    loaded = load_backbone(
        name,
        channels=settings.channels,
        size=settings.size,
        pooling=None if pooling == "auto" else pooling,
        max_length=settings.max_length,
    )
    if not isinstance(loaded.preprocess, Preprocess):
        return loaded
    return replace(
        loaded,
        preprocess=replace(loaded.preprocess, max_value=settings.full, background=settings.background),
    )


def _load_again(maker: Maker) -> Backbone:
    """The backbone that a maker names, with pictures prepared as they were for the table."""
    assert maker.backbone is not None
    try:
        if "tokenizer" in maker.input:
            length = TypeAdapter(int).validate_python(maker.input.get("max_length"))
            return load_backbone(maker.backbone, pooling=maker.pooling, max_length=length)
        intake = Preprocess.from_dict(maker.input)
    except ValidationError:
        raise BackboneError("the table does not say rightly how items are prepared.") from None
    loaded = load_backbone(maker.backbone, channels=intake.channels, size=maker.size)
    return replace(loaded, preprocess=intake)


def _backbone_of(source: Backbone | Bundle) -> Backbone:
    """A bundle's trunk as a backbone; without stages, which nothing asks for here."""
    if isinstance(source, Backbone):
        return source
    return Backbone(source.model.trunk, source.head.features, (), source.preprocess, source.source)


def _maker(given: str | Backbone | Bundle, backbone: Backbone) -> Maker:
    source, folder = backbone.source, given.path if isinstance(given, Bundle) else None
    name = source.id
    if source.library == "hf" and is_folder(source.name):  # it is found from any folder
        name = f"hf/{Path(source.name).expanduser().resolve()}:{source.weights}"
    known = not isinstance(given, Bundle) and source.library != "plain"
    return Maker(
        version=VERSION,
        sha256=state_digest(backbone.trunk),  # as it is: the source tells how it once was
        input=_plain(backbone.preprocess),
        backbone=name if known else None,
        bundle=None if folder is None else kept_path(folder.resolve()),
        size=source.options.get("size"),
        pooling=source.options.get("config", {}).get("pooling") if backbone.takes_text else None,
    )


def _plain(intake: Intake) -> dict[str, Any]:
    """How items are prepared, as it is after JSON."""
    values: dict[str, Any] = json.loads(json.dumps(intake.to_dict()))
    return values


def _reading(settings: DataSettings, intake: Intake) -> DataSettings:
    """How items are read for a network: pictures with its channels and its value for full.

    Raises:
        RecipeError: a setting that changes nothing, or is not what the network has.
    """
    fixed: dict[str, object]  # what the network has of them
    if isinstance(intake, Encoding):
        known, fixed = ["text"], {"max_length": intake.max_length}
    else:
        height, width = intake.size
        known = ["max_megapixels"]
        fixed = {
            "channels": intake.channels,
            "max_value": intake.max_value,
            "background": intake.background,
            "size": height if height == width else None,
        }
    agreed = {name for name, value in fixed.items() if getattr(settings, name) == value}
    idle = sorted(settings.model_fields_set - agreed.union(known))
    if idle:
        raise RecipeError(
            f"Of no effect here: {', '.join(f'data.{name}' for name in idle)}; of data only "
            f"{', '.join(known)} can be set, and where a backbone is named, {', '.join(fixed)}."
        )
    if isinstance(intake, Encoding):
        return settings
    return settings.model_copy(update=intake.reading)


def _nothing(faults: Sequence[Fault], problems: Sequence[Problem], modality: Modality) -> str:
    """Why there is nothing to embed."""
    if faults:
        found = show([f"{fault.id}: {fault.reason}" for fault in faults])
        return f"There is nothing to embed; no {modality} can be read:{found}"
    return "\n".join(map(str, problems)) or f"There is no {modality} to embed."


def _text_query(query: str) -> str:
    if names_file(query):
        raise DataError(
            f"The query {display(query)} is the name of a file; a text was expected. Put what is in it "
            "into a table by graft embed, or give the words themselves."
        )
    if not query.strip():
        raise DataError("A query is empty; a text was expected.")
    if any("\ud800" <= letter <= "\udfff" for letter in query):
        raise DataError(f"The query {display(query)} is not UTF-8 text.")
    return query


def _picture_query(query: str) -> Path:
    if Path(query).is_dir():
        raise DataError(f"The query {display(query)} is a folder; the path of one picture was expected.")
    return Path(query)


def _read_maker(table: Any, file: Path) -> Maker:
    told = (table.schema.metadata or {}).get(_MAKER)
    if told is None:
        raise _no_table(file, "it does not say what made it")
    values = parse_json(told.decode("utf-8", "replace"), DataError, str(file))
    version = values.get("version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise DataError(
            f"{file} is of version {version}; this graft reads up to {VERSION}. Update graft, or make the "
            "table again with graft embed."
        )
    try:
        return TypeAdapter(Maker).validate_python(values)
    except ValidationError:
        raise _no_table(file, "it does not say rightly what made it") from None


def _is_right(table: Any) -> bool:
    """Whether the columns are those that are written, without a gap."""
    import pyarrow

    kinds = {field.name: field.type for field in table.schema}
    features = kinds.pop("features", pyarrow.null())
    if not pyarrow.types.is_fixed_size_list(features) or features.value_type != pyarrow.float32():
        return False
    text = pyarrow.string()
    if kinds not in ({"id": text}, {"id": text, "text": text}) or features.list_size < 1:
        return False
    if len(table.schema) != len(kinds) + 1:  # a column stands twice
        return False
    inner = table.column("features").combine_chunks().flatten()
    return len(table) > 0 and not inner.null_count and not any(each.null_count for each in table.columns)


def _no_table(file: Path, why: str) -> DataError:
    return DataError(f"{file} is no table that graft embed wrote: {why}.")
