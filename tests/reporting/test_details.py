"""What a report shows of single items and layers, and where a network looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import graft
from graft.backbones.contract import Encoding
from graft.data.inputs import open_inputs
from graft.data.items import Text
from graft.model import Model
from graft.preparation import prepare
from graft.reporting.attribution import look_at_pictures, look_at_texts
from graft.reporting.details import CERTAIN, SHOWN, bins_of, pick, project
from graft.reporting.story import read_story
from graft.runs import Run, choose_run
from graft.workflow import carry_out, drain
from small import SETTINGS, make_pictures, make_tiny
from small_text import write_model


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(2, 5))
def test_who_is_shown(seed: int, n: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(classes), n)
    targets = generator.integers(0, classes, n)
    wrong, unsure = pick(shares, targets)
    decided = shares.argmax(axis=1)
    assert all(decided[item] != targets[item] for item in wrong)
    assert len(wrong) == min(SHOWN, int((decided != targets).sum()))
    surest = [shares[item, decided[item]] - shares[item, targets[item]] for item in wrong]
    assert surest == sorted(surest, reverse=True)
    assert not set(wrong) & set(unsure) and len(set(unsure)) == len(unsure) <= SHOWN
    assert all(shares[item].max() < CERTAIN for item in unsure)


def test_bins_hold_every_item_once() -> None:
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    bins = bins_of(shares, np.array([0, 1, 1, 0]))
    assert sum(count for count, *_ in bins) == 4
    said = sum(count * mean for count, mean, _ in bins) / 4
    right = sum(count * share for count, _, share in bins) / 4
    assert said == pytest.approx((0.9 + 0.6 + 0.8 + 0.5) / 4) and right == pytest.approx(0.75)
    several = bins_of(shares, np.array([[1, 0], [1, 1], [0, 1], [0, 0]]))
    assert sum(count for count, *_ in several) == 8


def test_the_map_keeps_distances_of_what_lies_in_a_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))
    points = torch.tensor(project(flat @ turn[:2] + 4))
    scale = torch.pdist(points) / torch.pdist(flat.float())
    assert scale.std() / scale.mean() < 1e-3
    assert project(flat @ turn[:2]) == project(flat @ turn[:2] + 1)
    assert len(project(torch.ones(5, 3))) == 5  # all alike
    assert project(torch.arange(4.0)[:, None])[0][1] == 0  # one feature alone


class Corner(nn.Module):
    """The mean of one corner's places: what it looks at is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.conv(pictures).relu()[:, :, :3, :3].mean((2, 3))


def test_the_network_looks_where_its_decision_comes_from() -> None:
    torch.manual_seed(0)
    model = Model(Corner(), nn.Linear(4, 2)).requires_grad_(False)
    inputs = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        decided = model(inputs).argmax(1).tolist()
    maps = look_at_pictures(model, inputs, decided)
    assert maps is not None and maps.shape == (3, 8, 8)
    assert maps.min() >= 0 and maps.max() <= 1
    assert (maps[:, 3:, :] == 0).all() and (maps[:, :, 3:] == 0).all()
    assert not any(parameter.requires_grad for parameter in model.parameters()), "left as it was"


class Tokens(nn.Module):
    """A patch transformer in small: tokens [B, 1 + 16, 6], the first of them decides."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, stride=2)
        self.first = nn.Parameter(torch.randn(1, 1, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.0)
        self.norm = nn.LayerNorm(6)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(pictures).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1)
        return self.norm(self.block(tokens)).mean(1)


def test_places_of_tokens_and_of_channels_that_come_last() -> None:
    torch.manual_seed(0)
    maps = look_at_pictures(Model(Tokens(), nn.Linear(6, 2)), torch.rand(9, 3, 8, 8), [0] * 9)
    assert maps is not None and maps.shape == (9, 4, 4)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 5)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.mix(pictures.permute(0, 2, 3, 1)).mean((1, 2))

    maps = look_at_pictures(Model(Last(), nn.Linear(5, 2)), torch.rand(2, 3, 6, 6), [0, 1])
    assert maps is not None and maps.shape == (2, 6, 6)


def test_a_network_without_places_has_no_map() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    assert look_at_pictures(Model(flat, nn.Linear(4, 2)), torch.rand(2, 3, 8, 8), [0, 1]) is None


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_words_of_a_text_are_those_that_it_has(kind: str, tmp_path: Path) -> None:
    backbone = graft.load_backbone(f"hf/{write_model(tmp_path / kind, kind)}", pooling="mean")
    encoding = backbone.preprocess
    assert isinstance(encoding, Encoding)
    texts = [Text("the film was great"), Text("a dull and awful film"), Text("good")]
    recipe = graft.read_recipe(strategy="full", data__validation=0)
    splits = graft.read_splits(
        recipe, backbone, data=([text.first for text in texts] * 2, ["a", "b", "a"] * 2)
    )
    items = splits.train.select([splits.train.ids.index(name) for name in splits.train.ids[:3]])
    said = [source for source in items.sources if isinstance(source, Text)]
    ((inputs, _, _),) = open_inputs(items, encoding).batches([[0, 1, 2]])
    model = Model(backbone.trunk, nn.Linear(backbone.feature_dim, 2))
    rows = look_at_texts(model, encoding, said, inputs, [0, 1, 0])
    assert rows is not None
    for text, row in zip(said, rows, strict=True):
        assert "".join(word.strip() for word, _ in row) == text.first.replace(" ", "")
        assert max(abs(score) for _, score in row) == pytest.approx(1)


@pytest.mark.parametrize("bundle", ["merged", "adapter"])
def test_adapters_are_compared_as_what_they_do_to_the_weights(
    photos: Path, tmp_path: Path, bundle: str
) -> None:
    settings = SETTINGS | {"strategy": "lora", "adapters__bundle": bundle, "train__lr": 1e-2, "epochs": 2}
    recipe = graft.read_recipe(data__path=str(photos), **settings)
    run = choose_run(tmp_path / "run", recipe)
    drain(carry_out(prepare(recipe), run, report=True))
    details = read_story(run).details
    assert details is not None
    assert [each.stage for each in details.changes] == list(make_tiny().stage_names)
    assert any(each.weights > 0 for each in details.changes)
    assert not any("lora" in (each.largest or "") for each in details.changes)


def test_a_run_of_texts_shows_words(tmp_path: Path) -> None:
    model = write_model(tmp_path / "bert", "bert")
    rows = [
        f"the film was {('good', 'bad')[n % 2]} number {n},{'yes' if n % 3 else 'no'}" for n in range(60)
    ]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    recipe = graft.read_recipe(
        backbone=f"hf/{model}",
        strategy="full",
        epochs=1,
        device="cpu",
        data__path=str(tmp_path / "texts.csv"),
    )
    run = choose_run(tmp_path / "run", recipe)
    drain(carry_out(prepare(recipe), run, report=True))
    details = read_story(Run(run.folder)).details
    assert details is not None
    shown = [*details.wrong, *details.unsure]
    assert shown and all(each.words and each.picture is None for each in shown)
    assert 'class="said"' in (run.folder / "report.html").read_text()


def test_places_count_where_a_class_token_decides() -> None:
    backbone = graft.load_backbone("timm/vit_tiny_patch16_224:none", size=64)
    model = Model(backbone.trunk.eval(), nn.Linear(backbone.feature_dim, 2))
    maps = look_at_pictures(model, backbone.preprocess.noise(3), [0, 1, 0])
    assert maps is not None and maps.shape == (3, 4, 4)
    assert (maps.max(axis=(1, 2)) == 1).all(), "a layer above which the places have no say"


def doubtful() -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """Pictures whose labels cannot be told from them."""
    return list(make_pictures("red", 120, seed=0)), ["heads", "tails"] * 60


def test_one_part_that_fails_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a map")

    monkeypatch.setattr("graft.reporting.details.project", fail)
    recipe, backbone = graft.read_recipe(**SETTINGS), make_tiny()
    run = choose_run(tmp_path / "run", recipe)
    modes = [module.training for module in backbone.trunk.modules()]
    drain(carry_out(prepare(recipe, backbone=backbone, data=doubtful()), run, report=True))
    details = read_story(run).details
    assert details is not None and details.map is None and details.confusion is not None
    assert details.wrong and all(each.heat for each in details.wrong)
    assert any("of a map" in note for note in details.notes)
    assert "of a map" in (run.folder / "report.html").read_text()
    assert [module.training for module in backbone.trunk.modules()] == modes


def test_a_slow_network_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.reporting.details.SLOW", 0.0)
    recipe = graft.read_recipe(**SETTINGS | {"epochs": 1})
    run = choose_run(tmp_path / "run", recipe)
    drain(carry_out(prepare(recipe, data=doubtful()), run, report=True))
    details = read_story(run).details
    assert details is not None and any("take too long" in note for note in details.notes)
    shown = (*details.wrong, *details.unsure)
    assert shown and all(each.picture and each.heat is None for each in shown)
