"""Models of transformers, of every kind that the README names, from small random configurations."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import classified
from torch import Tensor

from graft.backbones import hub, load_backbone, rebuild, state_digest
from graft.backbones.contract import PADDING, Backbone, Encoding
from graft.data.items import Items, Text
from graft.data.texts import Texts
from graft.errors import BackboneError
from graft.reuse.split import find_split, split_trunk
from graft.surgery import truncate
from small_text import DECODERS, KINDS, WITH_SEGMENTS, write_model, write_tokenizer

VISION: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
            "image_size": 16, "patch_size": 8},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 14,
               "patch_size": 7},
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 32, "patch_size": 4,
             "window_size": 4},
}  # fmt: skip

CLASSIFYING = VISION | {
    "deit": VISION["vit"] | {"architectures": ["DeiTForImageClassification"]},
    "vit_msn": VISION["vit"],
    "convnextv2": VISION["convnext"],
    "swinv2": VISION["swin"],
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "beit": VISION["vit"],
}


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_model(tmp_path_factory.mktemp(request.param), request.param)
    return load_backbone(f"hf/{folder}")


def texts(*said: str) -> Items:
    each = tuple(Text(one) for one in said)
    return Items(each, tuple(said), None, tuple(one.digest for one in each))


def run(backbone: Backbone, *said: str) -> Tensor:
    ((inputs, _, _),) = Texts(texts(*said), backbone.preprocess).batches([list(range(len(said)))])
    with torch.no_grad():
        features: Tensor = backbone.trunk.eval()(inputs)
    return features


def test_stages_are_the_embeddings_and_each_layer(loaded: Backbone) -> None:
    kind = loaded.source.options["config"]["model_type"]
    first, *layers = loaded.stage_names
    assert "embed" in first
    assert len(layers) == (1 if kind == "albert" else 3)
    assert all(stage.entry is not None for stage in loaded.stages[1:])
    assert not loaded.unused


def test_padding_changes_nothing(loaded: Backbone) -> None:
    """A text gives the features it gives alone, whatever longer one stands beside it."""
    alone = run(loaded, "a good film")
    beside = run(loaded, "the plot was not very bad but the ending is awful and dull", "a good film")
    assert torch.allclose(beside[1], alone[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(beside[0], beside[1], atol=1e-3)


def test_every_split_gives_the_features_of_the_whole(loaded: Backbone) -> None:
    trunk, inputs = loaded.trunk.eval(), loaded.preprocess.noise(4, 3)
    with torch.no_grad():
        whole = trunk(inputs)
        for place in range(1, len(loaded.stages)):
            split = find_split(loaded, place)
            assert split is not None and split.place == place
            with split_trunk(trunk, split, loaded.preprocess) as lower:
                state = lower(inputs)
                assert state.shape[0] == 4 and state.shape[-1] == split.row[-1]
                assert torch.allclose(trunk(state), whole, rtol=1e-5, atol=1e-5)
        assert torch.equal(trunk(inputs), whole)


def test_disturbing_a_stage_leaves_what_is_below(loaded: Backbone) -> None:
    inputs = loaded.preprocess.noise(2)
    for place in range(1, len(loaded.stages)):
        lower = truncate(loaded.trunk, loaded.stages[place - 1], stages=loaded.stages).eval()
        parameter = dict(loaded.trunk.named_parameters())[loaded.stages[place].parameters[0]]
        with torch.no_grad():
            before, kept = lower(inputs), parameter.clone()
            parameter += 1.0
            assert torch.equal(lower(inputs), before)
            parameter.copy_(kept)


def test_it_is_built_again_without_its_folder(loaded: Backbone) -> None:
    options = loaded.source.options
    assert json.loads(json.dumps(options)) == options
    other = rebuild(loaded.source, loaded.preprocess)
    assert other.stages == loaded.stages and other.preprocess == loaded.preprocess
    other.trunk.load_state_dict(loaded.trunk.state_dict())
    inputs = loaded.preprocess.noise(2)
    with torch.no_grad():
        assert torch.equal(other.trunk.eval()(inputs), loaded.trunk.eval()(inputs))


def test_features_are_those_of_the_library(tmp_path: Path) -> None:
    """Beside the library's own tokenizer, padding and model."""
    from transformers import AutoModel, AutoTokenizer

    folder = write_model(tmp_path, "bert")
    said = ["the film was not very good", "dull", "fine acting and a great ending"]
    tokens = AutoTokenizer.from_pretrained(folder)(said, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    for pooling, expected in {"cls": states[:, 0], "mean": (states * mask).sum(1) / mask.sum(1)}.items():
        found = run(load_backbone(f"hf/{folder}", pooling=pooling), *said)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_last_token_is_the_last_real_one(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = write_model(tmp_path, "llama")
    tokens = AutoTokenizer.from_pretrained(folder)(["a great film"], return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    found = run(load_backbone(f"hf/{folder}"), "a great film", "the plot was dull and the ending awful")
    assert torch.allclose(found[0], states[0, -1], rtol=1e-5, atol=1e-5)


def test_the_makers_pooling_is_the_default(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    assert load_backbone(f"hf/{folder}").trunk.pooling == "cls"
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert load_backbone(f"hf/{folder}").trunk.pooling == "mean"
    assert load_backbone(f"hf/{folder}", pooling="last").trunk.pooling == "last"
    assert load_backbone(f"hf/{write_model(tmp_path / 'gpt2', 'gpt2')}").trunk.pooling == "last"


@pytest.mark.parametrize("kind", WITH_SEGMENTS)
def test_both_texts_of_a_pair_are_told_apart(kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(f"hf/{write_model(tmp_path, kind)}")
    pair = Items((Text("the film", "was good"),), ("0",), None, ("0",))
    ((inputs, _, _),) = Texts(pair, backbone.preprocess).batches([[0]])
    assert set(inputs[0, 1].tolist()) == {0, 1}
    other = inputs.clone()
    other[:, 1] = 0
    with torch.no_grad():
        assert not torch.equal(backbone.trunk.eval()(inputs), backbone.trunk(other))


def test_random_weights_are_a_function_of_the_seed(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    torch.manual_seed(1)
    one = load_backbone(f"hf/{folder}:none")
    torch.manual_seed(1)
    assert state_digest(load_backbone(f"hf/{folder}:none").trunk) == state_digest(one.trunk)
    assert not one.source.pretrained
    assert state_digest(load_backbone(f"hf/{folder}").trunk) != state_digest(one.trunk)


def test_length_is_bounded_by_what_the_network_takes(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "roberta")
    encoding = load_backbone(f"hf/{folder}").preprocess
    assert isinstance(encoding, Encoding) and encoding.max_length == 63  # 64 positions, one of the padding
    inputs = encoding.noise(1, length=63)
    with torch.no_grad():
        assert load_backbone(f"hf/{folder}").trunk(inputs).shape == (1, 16)
    assert load_backbone(f"hf/{folder}", max_length=8).preprocess.max_length == 8
    with pytest.raises(BackboneError, match="up to 63"):
        load_backbone(f"hf/{folder}", max_length=64)


@pytest.mark.parametrize("kind", [*VISION, "beit"])
def test_networks_for_pictures_load_with_their_processor(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    settings = CLASSIFYING[kind]
    AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(tmp_path)
    side = settings["image_size"]
    told = {"size": {"height": side, "width": side}, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"resample": 3}))
    backbone = load_backbone(f"hf/{tmp_path}")
    how = backbone.preprocess
    assert (how.size, how.mean, how.interpolation) == ((side, side), (0.4,) * 3, "bicubic")
    assert len(backbone.stages) >= 3
    other = rebuild(backbone.source)
    other.trunk.load_state_dict(backbone.trunk.state_dict())
    with torch.no_grad():
        found = backbone.trunk.eval()(how.noise(2))
        assert found.shape == (2, backbone.feature_dim)
        assert torch.equal(other.trunk.eval()(how.noise(2)), found)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", CLASSIFYING)
def test_the_pretrainings_own_classifier_is_kept(kind: str, sharded: bool, tmp_path: Path) -> None:
    """Where it takes the features as they are: of BEiT it takes others, of DINOv2 more than these."""
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(kind, num_labels=5, **CLASSIFYING[kind])
    reference = AutoModelForImageClassification.from_config(config).eval()
    reference.save_pretrained(tmp_path, max_shard_size="4KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    backbone = load_backbone(f"hf/{tmp_path}", size=32 if kind in ("regnet", "resnet") else None)
    if kind in ("beit", "dinov2"):
        assert backbone.classifier is None
        return
    pictures = backbone.preprocess.noise(2)
    with torch.no_grad():
        assert torch.allclose(
            classified(backbone, pictures), reference(pixel_values=pictures).logits, atol=1e-5
        )
    assert load_backbone(f"hf/{tmp_path}:none").classifier is None


@pytest.mark.parametrize("told", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
def test_what_tells_no_class_is_no_classifier(told: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model("vit", **(VISION["vit"] | {"num_labels": 5} | told))
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    assert load_backbone(f"hf/{tmp_path}").classifier is None


class Refusals:
    """Folders that are wrong in one way each."""

    @staticmethod
    def no_weights(folder: Path) -> str:
        (folder / "model.safetensors").unlink()
        return "can run code"

    @staticmethod
    def pickled(folder: Path) -> str:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        return "can run code"

    @staticmethod
    def cut(folder: Path) -> str:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        return "cannot be read"

    @staticmethod
    def no_tokenizer(folder: Path) -> str:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        return "no tokenizer"

    @staticmethod
    def broken_tokenizer(folder: Path) -> str:
        (folder / "tokenizer.json").write_text("{}")
        return "tokenizer of .* cannot be read"

    @staticmethod
    def other_sizes(folder: Path) -> str:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
        return "do not fit"

    @staticmethod
    def more_layers(folder: Path) -> str:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
        return "missing"

    @staticmethod
    def own_code(folder: Path) -> str:
        told = {"model_type": "homemade", "auto_map": {"AutoModel": "modeling.Model"}}
        (folder / "config.json").write_text(json.dumps(told))
        (folder / "modeling.py").write_text("raise SystemExit('run')")
        return "never runs"

    @staticmethod
    def unknown(folder: Path) -> str:
        (folder / "config.json").write_text(json.dumps({"model_type": "homemade"}))
        return "knows no model of type 'homemade'"

    @staticmethod
    def with_decoder(folder: Path) -> str:
        (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
        return "encoder with a decoder"

    @staticmethod
    def neither(folder: Path) -> str:
        (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
        return "neither texts nor pictures"

    @staticmethod
    def wrong_value(folder: Path) -> str:
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": "wide"}))
        return "config.json of .* is not right"

    @staticmethod
    def quantized(folder: Path) -> str:
        config = json.loads((folder / "config.json").read_text())
        told = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        (folder / "config.json").write_text(json.dumps(told))
        return "quantized"

    @staticmethod
    def no_class_token(folder: Path) -> str:
        (folder / "config.json").write_text(json.dumps({"model_type": "hiera"}))
        return "what stands for a picture"

    @staticmethod
    def infinite(folder: Path) -> str:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        next(iter(tensors.values())).fill_(float("nan"))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return "no numbers"


WRONG = [name for name in vars(Refusals) if not name.startswith("_")]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_folder_is_said_in_words(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    with pytest.raises(BackboneError, match=getattr(Refusals, name)(folder)):
        load_backbone(f"hf/{folder}")


def test_options_of_pictures_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    for options in ({"channels": 1}, {"size": 64}, {"drop_path": 0.1}):
        with pytest.raises(BackboneError, match="takes texts"):
            load_backbone(f"hf/{folder}", **options)  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="takes pictures"):
        load_backbone("torchvision/resnet18:none", max_length=8)


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository, org/net, that may break off in the middle of the weights."""

    folder: Path
    behaviour: str

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        body = self._head()
        if body is None:
            return
        if self.path.endswith(".safetensors") and self.behaviour == "truncated":
            body = body[: len(body) // 2]
        if self.path.endswith(".safetensors") and self.behaviour == "corrupted":
            body = body[:8] + b"\xff" + body[9:]
        if self.path.endswith(".safetensors") and self.behaviour == "stalled":
            self.wfile.write(body[:100])
            self.wfile.flush()
            threading.Event().wait(4)
            return
        self.wfile.write(body)

    def _head(self) -> bytes | None:
        prefix = "/org/net/resolve/main/"
        file = self.folder / self.path.removeprefix(prefix).partition("?")[0]
        found = self.path.startswith(prefix) and file.is_file()
        body = file.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        if not found:
            known = self.path.startswith("/org/net/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("ETag", f'"{file.name}-{len(body)}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body if found else None

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path, behaviour: str = "whole") -> Iterator[str]:
    handler = type("Handler", (Hub,), {"folder": folder, "behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.usefixtures("online")
def test_a_model_of_the_hub_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "net", "bert")
    with serving(folder) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        fetched = load_backbone("hf/org/net")
        with pytest.raises(BackboneError, match="check the name"):
            load_backbone("hf/org/nothing")
    assert state_digest(fetched.trunk) == state_digest(load_backbone(f"hf/{folder}").trunk)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # also the files that it does not have are remembered
    assert state_digest(load_backbone("hf/org/net").trunk) == state_digest(fetched.trunk)


@pytest.mark.usefixtures("online")
def test_weights_in_parts_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_model(tmp_path / "net", "bert")
    whole = state_digest(load_backbone(f"hf/{folder}").trunk)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index: dict[str, str] = {}
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{part}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index, "metadata": {}}))
    with serving(folder) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert state_digest(load_backbone("hf/org/net").trunk) == whole


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("behaviour", ["truncated", "corrupted", "stalled"])
def test_a_broken_download_is_told(behaviour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "STALL_SECONDS", 1.0)
    folder = write_model(tmp_path / "net", "bert")
    with serving(folder, behaviour) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(BackboneError, match=r"model\.safetensors|weights of hf/org/net"):
            load_backbone("hf/org/net")


def test_noise_is_padded_in_every_second_text(tmp_path: Path) -> None:
    encoding = load_backbone(f"hf/{write_model(tmp_path, 'gpt2')}").preprocess
    noise = encoding.noise(3, 1)
    assert noise.dtype == torch.int64 and noise.shape[1] == 2
    assert (noise[:, 0] == PADDING).any(1).tolist() == [False, True, False]
    assert "gpt2" in DECODERS
    write_tokenizer(tmp_path)


def test_kernels_that_a_configuration_names_are_not_fetched(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    told = config | {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    (folder / "config.json").write_text(json.dumps(told))
    loaded = load_backbone(f"hf/{folder}")
    assert loaded.trunk.network.config._attn_implementation in ("sdpa", "eager")
    assert "somebody" not in json.dumps(loaded.source.options)


@pytest.mark.usefixtures("online")
def test_offline_doubts_about_pooling_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another program filled does not tell which files there are none of."""
    folder = write_model(tmp_path / "net", "bert")
    with serving(folder) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        load_backbone("hf/org/net")
    for mark in (tmp_path / "hub").rglob(".no_exist"):
        shutil.rmtree(mark)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match="--set pooling="):
        load_backbone("hf/org/net")
    assert load_backbone("hf/org/net", pooling="mean").takes_text
