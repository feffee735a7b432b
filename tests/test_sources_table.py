"""The table of sources: what comes with the package, a lab's own, what is refused, and what a suite needs of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from robustiqa.bench.errors import Absent, BadData, UnknownName
from robustiqa.bench.registry import registry
from robustiqa.bench.sources import Source
from robustiqa.bench.sources.declared import loaded_by
from robustiqa.bench.sources.needs import needs_of
from robustiqa.bench.sources.places import digest_of, find_roots, folder_of
from robustiqa.bench.sources.table import choose, load_table
from robustiqa.bench.suite import load_suite
from torch import nn

SHA = "0" * 64
URL = "https://example.org/a.zip"
ABOUT = {"title": "T", "licence": "L", "citation": "C", "page": "https://example.org", "verified": "in a test"}
PLAIN = {"save": "a.bin", "urls": [URL], "sha256": SHA}


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "mine", "kind": "dataset", **ABOUT, "files": [PLAIN], **changes}


def written(folder: Path, *entries: dict[str, Any], **more: Any) -> Path:
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump({"schema": 1, "sources": list(entries), **more}))
    return path


def test_built_in_table_says_all_that_is_asked_of_it() -> None:
    """Each entry is fetched or says what to do by hand; weights carry a digest, and pyiqa's that of their name."""
    table = load_table()
    fetched = {name for name, source in table.items() if source.files}
    assert {"koniq10k", "kadid10k", "csiq", "pyiqa-musiq", "kair-dncnn-25", "eonss"} <= fetched
    assert {"clive", "spaq", "live", "tid2013", "pipal", "flive", "agiqa3k", "nips2017"} <= table.keys() - fetched
    for source in table.values():
        assert source.verified[:4].isdigit(), "it begins with a date"
        assert source.kind == "weights" or not source.needed_by
        for file in source.files:
            assert all(url.startswith("https://") for url in file.urls)
            if source.folder in ("hub/pyiqa", "hub/checkpoints"):
                in_name = file.save.rpartition(".")[0].rpartition("-")[2]
                assert (file.sha256 or "").startswith(in_name)


@pytest.mark.parametrize(
    ("name", "path"), [("eonss", "eonss/EONSS_model.pt"), ("kair-dncnn-25", "kair_dncnn/dncnn_25.pth"),
                       ("dbcnn-scnn", "dbcnn_scnn/scnn.pkl")]
)  # fmt: skip
def test_pins_fit_real_files(data_root: Path, name: str, path: str) -> None:
    real = data_root / "weights" / path
    if not real.is_file():
        pytest.skip(f"{path} is not among the real data")
    (file,) = load_table()[name].files
    assert file.sha256 == digest_of(real)
    assert file.bytes == real.stat().st_size


def test_own_table_replaces_and_extends(tmp_path: Path) -> None:
    path = written(tmp_path, entry(), entry(name="koniq10k", title="a mirror of ours"))
    table = load_table([path])
    assert table["koniq10k"].title == "a mirror of ours"
    assert table["mine"].files[0].urls == (URL,)
    assert table.keys() - load_table().keys() == {"mine"}


WRONG = {
    "key": (entry(licnce="L"), UnknownName, "did you mean 'licence'"),
    "key of a file": (entry(files=[{**PLAIN, "sha265": SHA}]), UnknownName, "did you mean 'sha256'"),
    "no way": (entry(files=[]), BadData, "neither files nor by_hand"),
    "no digest of weights": (
        entry(kind="weights", files=[{"save": "a", "urls": [URL]}]),
        BadData,
        "weights can run code",
    ),
    "http without digest": (entry(files=[{"save": "a", "urls": ["http://x.org/a"]}]), BadData, "must be https"),
    "http with digits": (entry(files=[{**PLAIN, "urls": ["http://x.org/a"], "sha256": "0" * 8}]), BadData, "https"),
    "short digest": (entry(files=[{**PLAIN, "sha256": "0" * 7}]), BadData, "sha256"),
    "digest": (entry(files=[{**PLAIN, "sha256": "G" * 64}]), BadData, "sha256"),
    "size": (entry(files=[{**PLAIN, "bytes": 0}]), BadData, "bytes"),
    "no address": (entry(files=[{**PLAIN, "urls": []}]), BadData, "urls"),
    "other address": (entry(files=[{**PLAIN, "urls": ["file:///etc/passwd"]}]), BadData, "https://"),
    "login": (entry(files=[{**PLAIN, "urls": ["https://me:secret@x.org/a"]}]), BadData, "netrc"),
    "name": (entry(name="../x"), BadData, "name"),
    "folder": (entry(folder="../x"), BadData, "leads out"),
    "absolute folder": (entry(folder="/etc"), BadData, "absolute"),
    "save": (entry(files=[{**PLAIN, "save": "../x"}]), BadData, "leads out"),
    "save with folder": (entry(files=[{**PLAIN, "save": "a/b"}]), BadData, "has a folder"),
    "into": (entry(files=[{**PLAIN, "into": "a/../../b"}]), BadData, "leads out"),
    "strip of a plain file": (entry(files=[{**PLAIN, "strip": "a"}]), BadData, "for archives"),
    "same save": (entry(files=[PLAIN, {**PLAIN, "save": "A.BIN"}]), BadData, "same `save`"),
    "archive in torch": (
        entry(kind="weights", below="torch", files=[{**PLAIN, "archive": "zip"}]),
        BadData,
        "plain files",
    ),
    "files in the hub": (entry(kind="weights", below="hub"), BadData, "own program"),
    "kind": (entry(kind="paper"), BadData, "kind"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries(tmp_path: Path, case: str) -> None:
    wrong, error, words = WRONG[case]
    with pytest.raises(error, match=words) as caught:
        load_table([written(tmp_path, wrong)])
    assert "\n" not in str(caught.value)
    assert "own.yml" in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        load_table([tmp_path / "missing.yml"])
    with pytest.raises(BadData, match="two sources 'mine'"):
        load_table([written(tmp_path, entry(), entry())])
    with pytest.raises(UnknownName, match="sources"):
        load_table([written(tmp_path, entry(), source=[])])
    for content, words in ((b"- 1", "holds a list"), (b"a: [", "not valid YAML"), (b"\xff", "not UTF-8"),
                           (b"verified: 2026-02-30", "put texts in quotes"), (b"a: " + b"9" * 5000, "put texts in"),
                           (b"!!int x", "put texts in quotes"), (b"!!bool x", "put texts in quotes"),
                           (b"!!python/object/apply:os.system [id]", "not valid YAML")):  # fmt: skip
        (tmp_path / "own.yml").write_bytes(content)
        with pytest.raises(BadData, match=words):
            load_table([tmp_path / "own.yml"])
    with pytest.raises(UnknownName, match="did you mean 'koniq10k'"):
        choose(load_table(), ["koniq10"])


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the loaders look, and where torch and the Hugging Face hub do, as their own documentation has it."""
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("ROBUSTIQA_DATA", "/data")
    table = load_table()
    places = {
        name: str(folder_of(table[name], find_roots())) for name in ("clive", "eonss", "pyiqa-musiq", "timm-resnet50")
    }
    assert places == {
        "clive": "/data/clive",
        "eonss": "/data/weights/eonss",
        "pyiqa-musiq": "/home/me/.cache/torch/hub/pyiqa",
        "timm-resnet50": "/home/me/.cache/huggingface/hub/models--timm--resnet50.a1_in1k",
    }
    monkeypatch.setenv("TORCH_HOME", "/t")
    monkeypatch.setenv("HF_HOME", "/h")
    roots = find_roots("/elsewhere")
    assert [str(root) for root in roots] == ["/elsewhere", "/t", "/h/hub"]
    import torch

    assert torch.hub.get_dir() == str(roots.torch / "hub")


def suite(tmp_path: Path, **lists: Any) -> Any:
    path = tmp_path / "suite.yml"
    base = {"schema": 1, "name": "mine", "metrics": ["tiny-iqa"], "defenses": ["none"], "datasets": ["photos"]}
    path.write_text(yaml.safe_dump({**base, **lists}))
    return load_suite(str(path))


def needed(tmp_path: Path, table: dict[str, Source], **lists: Any) -> dict[str, list[str]]:
    return {need.plugin: [source.name for source in need.sources] for need in needs_of(suite(tmp_path, **lists), table)}


def test_needs_of_the_paper_suite() -> None:
    """What it names and does not bring along, one by one; photos and tiny-iqa need nothing."""
    needs = {need.plugin: [s.name for s in need.sources] for need in needs_of(load_suite("paper"), load_table())}
    assert needs == {
        "data set koniq10k": ["koniq10k"],
        "data set clive": ["clive"],
        "data set spaq": ["spaq"],
        "metric pyiqa:cnniqa": ["pyiqa-cnniqa"],
        "metric pyiqa:dbcnn": ["pyiqa-dbcnn", "torchvision-vgg16"],
        "metric pyiqa:hyperiqa": ["pyiqa-hyperiqa", "timm-resnet50"],
        "metric pyiqa:topiq_nr": ["pyiqa-topiq-nr", "timm-resnet50"],
        "metric pyiqa:musiq": ["pyiqa-musiq"],
    }


def test_needs_inside_other_plugins(tmp_path: Path) -> None:
    """Of attacks, of metrics that an attack or a defence names, and of pairs; a user's own data set needs nothing."""
    table = load_table()
    attacks = [{"attack": name, "l2": [0.1]} for name in ("transfer[source=pyiqa:musiq]", "zhang-dists")]
    assert needed(tmp_path, table, attacks=attacks) == {
        "metric pyiqa:musiq": ["pyiqa-musiq"],
        "attack zhang-dists": ["pyiqa-dists", "torchvision-vgg16"],
    }
    pairs = [{"metric": "pyiqa:cnniqa", "defense": "none"}]
    assert needed(tmp_path, table, pairs=pairs) == {"metric pyiqa:cnniqa": ["pyiqa-cnniqa"]}
    assert needed(tmp_path, table, datasets=["clive[root=/mine]"]) == {}


def test_needs_of_a_metric_that_is_given_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's weights are not needed, a backbone is; only the plug-in itself knows."""

    class Backboned(nn.Module):
        def __init__(self, weights: str = "") -> None:
            super().__init__()

    class Named(Backboned):
        pass

    registry.register("metric", "backboned", 1, ("pyiqa",), lambda weights: ["clip-rn50"] if weights else ["eonss"])(
        Backboned
    )
    registry.register("metric", "named", 1, ("pyiqa",))(Named)
    table = load_table()
    table["eonss"] = table["eonss"].model_copy(update={"needed_by": ("named",)})
    assert needed(tmp_path, table, metrics=["backboned"]) == {"metric backboned": ["eonss"]}
    assert needed(tmp_path, table, metrics=["backboned[weights=/mine.pth]"]) == {"metric backboned": ["clip-rn50"]}
    inside = {"metrics": ["tiny-iqa"], "defenses": ["ensemble[others=backboned[weights=/mine.pth]]"]}
    assert needed(tmp_path, table, **inside) == {"metric backboned": ["clip-rn50"]}
    assert needed(tmp_path, table, metrics=["named"]) == {"metric named": ["eonss"]}
    assert needed(tmp_path, table, metrics=["named[weights=/mine.pth]"]) == {}
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    (need,) = needs_of(suite(tmp_path, metrics=["pyiqa:musiq[weights=/mine.pth]"]), table)
    assert not need.sources
    assert "what it needs besides its weights is not known here: metrics of pyiqa need the package" in need.unknown


def test_needs_of_what_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric of a package that is not installed is said, and a data set without loader is none."""
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    needs = needs_of(suite(tmp_path, metrics=["pyiqa:brisque"], datasets=["not-registered-yet"]), load_table())
    (need,) = needs
    assert need.sources == ()
    assert "what it needs is not known here: metrics of pyiqa need the package 'pyiqa'" in need.unknown
    own = load_table([written(tmp_path, entry(name="not-registered-yet"))])
    assert needed(tmp_path, own, datasets=["not-registered-yet"]) == {
        "data set not-registered-yet": ["not-registered-yet"]
    }


def test_metric_declares_its_sources(tmp_path: Path) -> None:
    """By the hook of `register_metric`: names of the table, or sources of its own, by its parameters."""
    extra = Source.model_validate(entry(kind="weights", name="declared"))

    class Declares(nn.Module):
        def __init__(self, size: int = 1) -> None:
            super().__init__()

    def of(size: int) -> list[Source | str]:
        if size > 1:
            raise Absent("no package")
        return [] if size < 0 else [extra] * size + ["eonss"]

    registry.register("metric", "declares", 1, ("pyiqa",), sources=of)(Declares)
    assert needed(tmp_path, load_table(), metrics=["declares"]) == {"metric declares": ["declared", "eonss"]}
    assert needed(tmp_path, load_table(), metrics=["declares[size=0]"]) == {"metric declares": ["eonss"]}
    assert needed(tmp_path, load_table(), metrics=["declares[size=-1]"]) == {}, "all of it is here"
    (need,) = needs_of(suite(tmp_path, metrics=["declares[size=9]"]), load_table())
    assert need.unknown.endswith("no package")


def test_example_of_the_documentation_is_a_table(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "own.yml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert load_table([tmp_path / "own.yml"])["koniq10k"].how == "pinned"


PLACES = {
    "digits in the name": (
        "https://x.org/w/net-0123abcd.pth",
        "hub/pyiqa/net-0123abcd.pth",
        "",
        "pinned by first digits",
    ),
    "digest in the address": (f"https://x.org/w/{'0123abcd' * 8}/ViT.pt", "hub/pyiqa/ViT.pt", "", "pinned"),
    "no digits": ("https://x.org/w/net.mat", "hub/pyiqa/net.mat", "", "by hand"),
    "no https": ("http://x.org/w/net-0123abcd.pth", "hub/pyiqa/net-0123abcd.pth", "", "by hand"),
    "elsewhere": ("https://x.org/w/net-0123abcd.pth", "../clip/net-0123abcd.pth", "", "by hand"),
    "hub": ("https://huggingface.co/timm/other", "models--timm--other", "timm/other", "by hand"),
}


@pytest.mark.parametrize("case", PLACES)
def test_source_of_a_file_that_a_package_loads(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url, path, repository, how = PLACES[case]
    source = loaded_by("pyiqa:net", url, (tmp_path / "torch" / path).resolve(), repository)
    assert source.how == how
    if source.files:
        assert folder_of(source, find_roots("/data")) == tmp_path / "torch" / "hub" / "pyiqa"
        assert source.files[0].sha256 == "0123abcd" * (8 if how == "pinned" else 1)
    else:
        assert "where there is a network" in source.by_hand


def test_declared_file_of_the_table_is_taken_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table knows more of it than its name tells: the whole digest, its licence, further mirrors."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "musiq_koniq_ckpt-e95806b9.pth"

    class Loads(nn.Module):
        pass

    def lacking() -> list[Source | str]:
        return [
            loaded_by("loads", f"https://x.org/{name}", tmp_path / "hub" / "pyiqa" / name),
            loaded_by("loads", "", tmp_path, "timm/resnet50.a1_in1k"),
            loaded_by("loads", "https://x.org/new-0123abcd.pth", tmp_path / "hub" / "pyiqa" / "new-0123abcd.pth"),
        ]

    registry.register("metric", "loads", 1, sources=lacking)(Loads)
    assert needed(tmp_path, load_table(), metrics=["loads"]) == {
        "metric loads": ["pyiqa-musiq", "timm-resnet50", "new-0123abcd-pth"]
    }


def test_declared_file_without_digits_is_no_other_source_by_hand(tmp_path: Path) -> None:
    """It was taken for the last data set of the table that is got by hand."""

    class ByHand(nn.Module):
        pass

    lacking = loaded_by("by-hand", "https://x.org/net.mat", tmp_path / "net.mat")
    registry.register("metric", "by-hand", 1, sources=lambda: [lacking])(ByHand)
    assert needed(tmp_path, load_table(), metrics=["by-hand"]) == {"metric by-hand": ["net-mat"]}


def test_one_plugin_with_other_parameters_is_another_need(tmp_path: Path) -> None:
    class Sized(nn.Module):
        def __init__(self, size: int = 1) -> None:
            super().__init__()

    registry.register("metric", "sized", 1, sources=lambda size: ["eonss"] if size == 1 else ["dbcnn-scnn"])(Sized)
    needs = needs_of(suite(tmp_path, metrics=["sized", "sized[size=2]", "sized[size=1]"]), load_table())
    assert [[source.name for source in need.sources] for need in needs] == [["eonss"], ["dbcnn-scnn"]]


def test_every_data_set_of_the_field_has_an_entry() -> None:
    """Those that are no plug-ins of tests, and that do not come with a package or from the user."""
    built_in = {name for name in registry.names("dataset") if registry.get("dataset", name).origin == "built-in"}
    assert {name for name, source in load_table().items() if source.kind == "dataset"} >= built_in - {
        "photos",
        "folder",
    }
