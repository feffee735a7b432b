"""Networks from files as metrics: TorchScript and a class with weights, from the command line to attacks and bounds."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import load_metric, trust
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadImage, BadParameter, BadPlugin, UnknownName
from robustiqa.bench.images import load_image
from robustiqa.bench.metrics.interface import Interface
from robustiqa.bench.metrics.torchscript import _Plain
from robustiqa.bench.registry import identity_of, registry
from robustiqa.defenses import load_defense
from torch import nn

SOURCE = '''
"""A network of ours."""

from pathlib import Path

import torch
from torch import nn

RUNS = Path(__file__).with_suffix(".runs")
RUNS.write_text((RUNS.read_text() if RUNS.exists() else "") + "x")


class Net(nn.Module):
    """Ratings from 1 to 5 as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.norm(self.conv(x))).mean((2, 3)))


class Plain(nn.Module):
    """No parameters at all."""

    def forward(self, x):
        return x.mean((1, 2, 3))


def broken():
    raise KeyError("no configuration")


def nothing():
    return 3


def needs(depth):
    return Net()


helper = 7
'''
OPTIONS = "output=logits,mean=imagenet,std=imagenet,low=1,high=5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A class file, its weights as a checkpoint, and the same network as TorchScript."""
    (tmp_path / "net.py").write_text(SOURCE)
    made = registry.load_file(tmp_path / "net.py")
    (tmp_path / "net.runs").unlink()
    torch.manual_seed(5)
    net = made.Net()
    net.norm.running_mean.normal_()
    net.eval()
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "net.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net).save(tmp_path / "net.pt")
        torch.jit.save(torch.jit.trace(net, torch.rand(1, 3, 32, 32)), tmp_path / "traced.pt")
    trust.trust(tmp_path / "net.pt")
    trust.trust(tmp_path / "traced.pt")
    return tmp_path


def spec(folder: Path, kind: str, options: str = OPTIONS) -> str:
    files = {
        "module": f"file={folder / 'net.py'},class=Net,weights={folder / 'net.pth'}",
        "torchscript": f"path={folder / 'net.pt'}",
        "traced": f"path={folder / 'traced.pt'}",
    }
    return f"{kind.replace('traced', 'torchscript')}[{files[kind]},{options}]"


def plain(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The score, written out from the weights in the file."""
    w = {k.removeprefix("module."): v for k, v in torch.load(folder / "net.pth")["state_dict"].items()}
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = nn.functional.conv2d((x - mean[:, None, None]) / std[:, None, None], w["conv.weight"], w["conv.bias"], 2)
    scale = w["norm.weight"] / torch.sqrt(w["norm.running_var"] + 1e-5)
    y = (y - w["norm.running_mean"][:, None, None]) * scale[:, None, None] + w["norm.bias"][:, None, None]
    p = (torch.tanh(y).mean((2, 3)) @ w["out.weight"].T + w["out.bias"]).softmax(1)
    return (p * torch.arange(1, 6)).sum(1)


@pytest.mark.parametrize("kind", ["module", "torchscript", "traced"])
def test_scores_are_those_of_the_network_written_out(folder: Path, images: torch.Tensor, kind: str) -> None:
    metric = load_metric(spec(folder, kind))
    assert torch.allclose(metric(images), plain(folder, images), atol=1e-5)
    assert metric.score_range == (1.0, 5.0)
    # A TorchScript network is not rewritten for what it saw in the first calls.
    assert all(torch.equal(metric(images), metric(images)) for _ in range(4))
    assert torch.allclose(metric(images), torch.cat([metric(x[None]) for x in images]), atol=1e-6)


def test_torchscript_is_run_as_it_is_written() -> None:
    """Its optimiser, which rewrites a network after some calls, is off inside, and left as it was outside."""
    states: list[bool] = []

    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states.append(torch._C._get_graph_executor_optimize())
            return x

    before = torch._C._get_graph_executor_optimize()
    _Plain(Asks())(torch.zeros(1))
    assert (states, torch._C._get_graph_executor_optimize()) == ([False], before)


@pytest.mark.parametrize("kind", ["module", "torchscript"])
def test_gradients_and_attacks_go_through(folder: Path, images: torch.Tensor, kind: str) -> None:
    metric = load_metric(spec(folder, kind))
    x = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    y = images.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(plain(folder, y).sum(), y)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    g = load_defense("none", metric)
    found = load_attack("pgd[steps=5]")(g, images, Linf(4 / 255))
    assert (found.gain > 0.01).all()
    assert float(np.abs(found.linf).max()) <= 4 / 255 + 1e-7


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize("kind", ["module", "torchscript"])
def test_the_command_line_scores_attacks_and_certifies(folder: Path, photo: Path, kind: str) -> None:
    shutil.move(folder / "net.py", folder / "fresh.py")  # named on the command line for the first time
    text = spec(folder, kind).replace("net.py", "fresh.py")
    scored = run("score", str(photo), "--metric", text, "--json")
    assert scored.exit_code == 0, scored.output
    expected = plain(folder, load_image(photo)[None])
    assert json.loads(scored.stdout)[0]["score"] == pytest.approx(float(expected), abs=1e-5)
    attacked = run("attack", str(photo), "--metric", text, "--attack", "fgsm", "--json")
    assert attacked.exit_code == 0, attacked.output
    assert json.loads(attacked.stdout)[0]["gain"] > 0
    few = "median-smoothing[n=200,m=5]"
    certified = run("certify", str(photo), "--metric", text, "--defense", few, "--eps", "0.05", "--json")
    assert certified.exit_code == 0, certified.output
    found = json.loads(certified.stdout)[0]
    assert found["certificates"][0]["lo"] <= found["score"] <= found["certificates"][0]["hi"]


# Programs run only where the user names them


def test_a_suite_alone_runs_no_program(folder: Path, tmp_path: Path) -> None:
    """Neither by name nor inside another plug-in string; the user's own naming lets it."""
    for name, source in (("other.py", "net.py"), ("other.pt", "net.pt")):
        shutil.copy(folder / source, tmp_path / name)
    module = f"module[file={tmp_path / 'other.py'},class=Plain]"
    script = f"torchscript[path={tmp_path / 'other.pt'},output=logits]"
    suite = {"name": "s", "defenses": ["none"], "datasets": ["photos[size=128,subset=references]"]}
    path = tmp_path / "suite.yml"
    for metric, file in (
        (module, "other.py"),
        (script, "other.pt"),
        (f"aligned[metric={module},calibration=photos[size=128]]", "other.py"),
    ):
        path.write_text(yaml.safe_dump(suite | {"metrics": [metric]}))
        refused = run("plan", "--suite", str(path))
        assert refused.exit_code == 1
        assert "only a suite or a record names it" in refused.output
        assert "Traceback" not in refused.output
        assert file in refused.output
    path.write_text(yaml.safe_dump(suite | {"metrics": ["linear"], "defenses": [f"ensemble[others={module}]"]}))
    assert "only a suite or a record names it" in run("plan", "--suite", str(path)).output
    assert not (tmp_path / "other.runs").exists()

    path.write_text(yaml.safe_dump(suite | {"metrics": [module]}))
    assert run("plan", "--suite", str(path), "--trust", str(tmp_path / "other.py")).exit_code == 0
    assert (tmp_path / "other.runs").read_text() == "x", "run once"
    path.write_text(yaml.safe_dump(suite | {"metrics": [script]}))
    assert run("plan", "--suite", str(path), "--trust", str(tmp_path / "other.pt")).exit_code == 0


def test_a_typed_string_trusts_its_files_and_no_others(tmp_path: Path) -> None:
    typed, other = tmp_path / "typed.py", tmp_path / "other.py"
    trust.trust_named(f"aligned[metric=module[file= {typed} ,class=Net],calibration=folder[root={tmp_path}]]")
    trust.check_trusted(typed, "a file")
    trust.check_trusted(tmp_path / "x" / ".." / "typed.py", "a file")
    with pytest.raises(BadPlugin, match=r"other\.py' is a file, which is a program"):
        trust.check_trusted(other, "a file")
    registry_file = tmp_path / "plugin.py"
    registry_file.write_text("")
    registry.load_file(registry_file)
    trust.check_trusted(registry_file, "a file named by --plugin")


def test_a_changed_file_is_run_again(folder: Path) -> None:
    load_metric(f"module[file={folder / 'net.py'},class=Plain]")
    assert not (folder / "net.runs").exists(), "the module is there already"
    (folder / "net.py").write_text(SOURCE + "\n# changed\n")
    load_metric(f"module[file={folder / 'net.py'},class=Plain]")
    assert (folder / "net.runs").read_text() == "x"


# What can be wrong


def test_bad_class_files_are_named(folder: Path, tmp_path: Path) -> None:
    weights = f"weights={folder / 'net.pth'}"
    for text, error, words in (
        ("class=Ned", UnknownName, "did you mean 'Net'"),
        ("class=helper", UnknownName, "known are Net, Plain"),
        ("class=broken", BadPlugin, "cannot be built without arguments .KeyError: 'no configuration'"),
        ("class=needs", BadPlugin, "cannot be built without arguments"),
        ("class=nothing", BadPlugin, "gives a int: expected a torch.nn.Module"),
        ("class=Net", BadParameter, "give their values with weights=FILE"),
        (f"class=Plain,{weights}", BadData, "not those of Plain .unknown"),
        (f"class=Net,{weights},prefix=net.", BadData, "without the prefix 'net.'"),
        (f"class=Net,{weights},key=model", BadData, "no entry 'model'"),
        ("", BadParameter, "needs the parameter 'class': write module.class"),
        ("class=Net,weigths=x", UnknownName, "did you mean 'weights'"),
        (f"class=Net,{weights},pixels=byte", BadParameter, "pixels=byte"),
    ):
        with pytest.raises(error, match=words):
            load_metric(f"module[file={folder / 'net.py'},{text}]")
    trust.trust(tmp_path / "none.py")
    with pytest.raises(BadPlugin, match="does not exist"):
        load_metric(f"module[file={tmp_path / 'none.py'},class=Net]")
    bad = tmp_path / "bad.py"
    bad.write_text("import a_package_that_is_not_there")
    trust.trust(bad)
    with pytest.raises(BadPlugin, match="failed with ModuleNotFoundError"):
        load_metric(f"module[file={bad},class=Net]")


def test_bad_torchscript_files_are_named(folder: Path, tmp_path: Path) -> None:
    whole, path = (folder / "net.pt").read_bytes(), tmp_path / "bad.pt"
    trust.trust(path)
    with pytest.raises(BadData, match="does not exist"):
        load_metric(f"torchscript[path={path}]")
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BadData, match="cut off or something else"):
            load_metric(f"torchscript[path={path}]")
    path.write_bytes(struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2) + b"PK\5\6" + bytes(18))  # one disk of an archive of two
    with pytest.raises(BadData, match="cut off or something else"):
        load_metric(f"torchscript[path={path}]")
    path.write_bytes((folder / "net.pth").read_bytes())
    with pytest.raises(BadData, match=r"for weights of a Python class use module\["):
        load_metric(f"torchscript[path={path}]")
    for name, words in (
        ("net.pt2", "torch.export"),
        ("net.onnx", r"use onnx\["),
        ("w.safetensors", "without a network"),
    ):
        with pytest.raises(BadParameter, match=words):
            load_metric(f"torchscript[path={tmp_path / name}]")
    with pytest.raises(BadParameter, match="needs the parameter 'path'"):
        load_metric("torchscript")


@pytest.mark.parametrize(("layer", "traced_in_training", "words"), [
    (nn.Dropout(0.5), True, "(dropout)"),
    (nn.BatchNorm2d(3), True, "(batch_norm)"),
    (nn.Dropout(0.5), False, ""),
    (nn.BatchNorm2d(3), False, ""),
    (nn.BatchNorm2d(3, track_running_stats=False), False, ""),
])  # fmt: skip
def test_what_was_traced_in_training_mode_is_refused(
    tmp_path: Path, layer: nn.Module, traced_in_training: bool, words: str
) -> None:
    """Tracing writes the mode down, so that `eval` changes nothing: scores are random, or those of the batch."""
    path = tmp_path / "net.pt"
    net = nn.Sequential(layer, nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1)).train(traced_in_training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.rand(2, 3, 16, 16), check_trace=False), path)
    trust.trust(path)
    if words:
        with pytest.raises(BadData, match=re.escape(f"was traced in training mode {words}")):
            load_metric(f"torchscript[path={path}]")
    else:
        assert load_metric(f"torchscript[path={path}]")(torch.rand(2, 3, 16, 16)).shape == (2,)


def test_a_script_in_training_mode_is_put_into_evaluation_mode(tmp_path: Path) -> None:
    path, x = tmp_path / "net.pt", torch.rand(2, 3, 16, 16)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(net), path)
    trust.trust(path)
    assert torch.allclose(load_metric(f"torchscript[path={path}]")(x), net.eval()(x).flatten(), atol=1e-6)


def test_a_traced_network_of_one_size_says_what_to_do(folder: Path, tmp_path: Path, images: torch.Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1))
    path = tmp_path / "fixed.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.rand(1, 3, 16, 16)), path)
    trust.trust(path)
    with pytest.raises(BadImage, match=r"fails on an input of shape \(3, 3, 48, 40\) \(.*mat1 and mat2.*give size="):
        load_metric(f"torchscript[path={path}]")(images)
    assert load_metric(f"torchscript[path={path},size=16]")(images).shape == (3,)


@pytest.mark.parametrize("kind", ["module", "torchscript"])
def test_identity_covers_the_bytes_of_every_file(folder: Path, kind: str) -> None:
    text = spec(folder, kind)
    aligned = f"aligned[metric={text},calibration=photos[size=128,subset=references]]"
    before = [identity_of("metric", t) for t in (text, aligned)]
    assert before == [identity_of("metric", t) for t in (text, aligned)]
    names = {"module": ("net.py", "net.pth"), "torchscript": ("net.pt",)}[kind]
    for name in names:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole + b"\n")
        assert not set(before) & {identity_of("metric", t) for t in (text, aligned)}
        (folder / name).write_bytes(whole)
    assert before[0] == identity_of("metric", text)
    assert before[0] != identity_of("metric", text.replace("high=5", "high=6"))


# The page about it


DOCS = (Path(__file__).parents[1] / "docs" / "own-metrics.md").read_text(encoding="utf-8")


def test_the_page_runs_as_printed(folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in in ten lines, and the export to TorchScript."""
    plugin, export = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(plugin.splitlines()) <= 10
    (folder / "my_package.py").write_text(SOURCE.replace("class Net(", "class MyNet("))
    monkeypatch.syspath_prepend(folder)
    (folder / "my_metric.py").write_text(plugin)
    arguments = ["--plugin", str(folder / "my_metric.py"), "--metric", f"my-metric[weights={folder / 'net.pth'}]"]
    said = run("score", str(photo), *arguments)
    assert "returned (1, 5) for 1 images" in said.output, "this network gives ratings"

    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(export, {"net": registry.module_of(folder / "net.py").Net()})
    scored = run("score", str(photo), "--metric", "torchscript[path=net.pt,output=logits]", "--json")
    assert scored.exit_code == 0, scored.output


def test_the_page_has_every_option() -> None:
    """The table against `Interface`, with the defaults that are words."""
    rows = {name: row for row in DOCS.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row)}
    for field in dataclasses.fields(Interface):
        assert field.name in rows, field.name
        if isinstance(field.default, str) and field.default:
            assert f"`{field.default}`" in rows[field.name] or f"={field.default}`" in rows[field.name]
