"""What is told of pyiqa's metrics before any is built, against pyiqa's own tables."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import Absent, BadData, UnknownName
from robustiqa.bench.metrics.pyiqa.names import NAMES
from robustiqa.bench.metrics.pyiqa.needs import files_of
from robustiqa.bench.metrics.pyiqa.package import MANY_IMAGES, declared, names
from robustiqa.bench.metrics.pyiqa.ranges import declared_range
from robustiqa.bench.metrics.pyiqa.traits import UNKNOWN
from robustiqa.bench.registry import registry

HUB = "https://huggingface.co/"


@pytest.fixture
def cached(offline: Path, random_weights) -> Iterator[Path]:
    """Weights of cnniqa where pyiqa looks for its own; gone afterwards."""
    (need,) = files_of("cnniqa")
    need.path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": torch.load(random_weights("cnniqa"))}, need.path)
    yield need.path
    need.path.unlink()


def test_every_network_of_one_image_is_known() -> None:
    assert set(names()) >= MANY_IMAGES.keys()
    single = set(names()) - MANY_IMAGES.keys()
    assert single == NAMES
    assert len(single) == 69
    assert [name for name in single if declared(name).traits is UNKNOWN] == []
    with pytest.raises(UnknownName, match="fid"):
        declared("fid")


def test_ranges_and_directions_are_pyiqas() -> None:
    entries = importlib.import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS
    for name in set(names()) - MANY_IMAGES.keys():
        about, entry = declared(name), entries[name]
        assert about.lower_better == entry.get("lower_better", False)
        ends = [part.strip().lstrip("~") for part in entry["score_range"].split(",")]
        assert declared_range(about.score_range) == (tuple(map(float, ends)) if all(ends) else None)
    assert declared_range(declared("pi").score_range) is None
    assert declared_range(declared("uranker").score_range) == (-1.0, 2.0)


def test_the_files_of_a_metric(offline: Path) -> None:
    """Addresses from pyiqa's, torchvision's, timm's and CLIP's own tables; places as their loaders compute them."""
    own, scnn, backbone = files_of("dbcnn")
    assert own.url == f"{HUB}chaofengc/IQA-PyTorch-Weights/resolve/main/DBCNN_KonIQ10k-2de81c0a.pth"
    assert own.path == offline / "torch/hub/pyiqa/DBCNN_KonIQ10k-2de81c0a.pth"
    assert scnn.path.parent == own.path.parent
    assert backbone.url == "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert backbone.path == offline / "torch/hub/checkpoints/vgg16-397923af.pth"
    timm = files_of("hyperiqa")[1]
    assert timm.repository == "timm/resnet50.a1_in1k model.safetensors"
    assert timm.path == offline / "hf/hub/models--timm--resnet50.a1_in1k"
    assert files_of("clipiqa+")[0].path.name == "CLIP-IQA%2B_learned_prompts-603f3273.pth"
    assert [need.path for need in files_of("clipiqa")] == [offline / "torch/hub/clip/RN50.pt"]
    assert [need.path.name for need in files_of("pi")] == ["NRQM_model.mat", "niqe_modelparameters.mat"]
    assert files_of("niqe_matlab")[0].path.name == "niqe_matlab_params.mat"
    assert files_of("laion_aes")[1].path == offline / "home/.cache/clip/ViT-L-14.pt"
    assert [need.path.name for need in files_of("arniqa-kadid")] == [
        "ARNIQA.pth", "regressor_kadid10k.pth", "resnet50-0676ba61.pth",
    ]  # fmt: skip
    assert len(files_of("topiq_nr-face")) == 4
    assert files_of("piqe") == files_of("entropy") == []
    for name in set(names()) - MANY_IMAGES.keys() - {"qalign", "qalign_4bit", "qalign_8bit"}:
        assert all(need.url.startswith("https://") and not need.here for need in files_of(name)), name


def test_the_list_says_what_works_and_why_not(cached: Path) -> None:
    found = CliRunner().invoke(cli, ["list", "metrics", "--pyiqa", "--json"])
    assert found.exit_code == 0, found.output
    rows = {row["name"]: row for row in json.loads(found.stdout)}
    assert list(rows) == names()
    assert {name for name, row in rows.items() if row["usable"]} == {"piqe", "entropy", "cnniqa"}
    assert all(row["usable"] or row["why"] for row in rows.values())
    assert rows["clipscore"]["why"] == "not a metric of one image: it compares an image with a caption"
    assert "vgg16-397923af.pth" in rows["dbcnn"]["why"]
    assert rows["dbcnn"]["missing"][2]["url"] == "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert "timm/resnet50.a1_in1k" in rows["hyperiqa"]["why"]
    assert "CUDA" in rows["maclip"]["why"]
    assert "icecream" in rows["qalign"]["why"]
    assert (rows["piqe"]["gradient"], rows["piqe"]["lower_better"], rows["piqe"]["range"]) == (False, True, [0, 100])
    assert rows["pi"]["range"] is None
    assert rows["liqe"]["min_size"] == 224
    text = CliRunner().invoke(cli, ["list", "metrics", "--pyiqa", "--build"]).output
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("pyiqa:")}
    assert "yes" in lines["pyiqa:cnniqa"].split()
    assert "measured" in lines["pyiqa:pi"]
    assert text.count("scored") == 3
    assert "3 of 74 work here" in text
    wrong = CliRunner().invoke(cli, ["list", "attacks", "--pyiqa"])
    assert wrong.exit_code == 2
    assert "list metrics" in wrong.output


def test_its_own_weights_are_taken_from_the_cache_without_a_look_up(cached: Path, random_weights, monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    x = torch.rand(2, 3, 40, 40)
    expected = load_metric(f"pyiqa:cnniqa[weights={random_weights('cnniqa')}]")(x)
    assert torch.equal(load_metric("pyiqa:cnniqa")(x), expected)


def test_a_damaged_file_in_the_cache_is_named(cached: Path) -> None:
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(BadData, match=r"may be damaged .*CNNIQA_koniq10k-e6f14c91\.pth.*fetch it again"):
        load_metric("pyiqa:cnniqa")


def test_a_file_of_clip_that_is_not_clips_is_named(offline: Path) -> None:
    """Its checksum is looked at each time, and another file fetched: without a network that is no missing file."""
    (need,) = files_of("clipiqa")
    need.path.parent.mkdir(parents=True, exist_ok=True)
    need.path.write_bytes(b"cut off")
    try:
        with pytest.raises(Absent, match=r"are damaged or not those that pyiqa expects.*RN50\.pt \(from https://"):
            load_metric("pyiqa:clipiqa")
    finally:
        need.path.unlink()


def test_a_prefetch_brings_what_the_options_ask_for(random_weights) -> None:
    """`data fetch --suite`: the weights of the data set that is named, and none that a user's own file replaces."""

    def lacking(text: str) -> list[str]:
        plugin, _, parameters = registry.resolve("metric", text)
        assert plugin.sources is not None
        return [Path(source.files[0].urls[0]).name for source in plugin.sources(**parameters)]  # type: ignore[union-attr]

    assert lacking("pyiqa:dbcnn")[0] == "DBCNN_KonIQ10k-2de81c0a.pth"
    assert lacking("pyiqa:dbcnn[options=pretrained=livec]")[0] == "DBCNN_LIVEC-83f6dad3.pth"
    assert lacking(f"pyiqa:dbcnn[weights={random_weights('cnniqa')}]") == []


@pytest.mark.parametrize("said", ["by the user", "by the network"])
def test_without_a_network_the_files_are_named_at_once(offline: Path, monkeypatch, said: str) -> None:
    if said == "by the network":
        monkeypatch.delenv("HF_HUB_OFFLINE")

        def unreachable(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr("urllib.request.urlopen", unreachable)
    began = time.process_time()
    with pytest.raises(Absent) as found:
        load_metric("pyiqa:nima")
    text = str(found.value)
    assert str(offline / "torch/hub/pyiqa/NIMA_InceptionV2_ava-b0c77c00.pth") in text
    assert f"from {HUB}chaofengc/IQA-PyTorch-Weights/resolve/main/NIMA_InceptionV2_ava-b0c77c00.pth" in text
    assert "`hf download timm/inception_resnet_v2.tf_in1k model.safetensors`" in text
    assert "\n" not in text
    assert time.process_time() - began < 5
    with pytest.raises(Absent, match="CUDA"):
        load_metric("pyiqa:maclip")
    with pytest.raises(Absent, match="pip install icecream"):
        load_metric("pyiqa:qalign")
