"""Metrics in ONNX files: onnxruntime against torch, black-box only; the sentence for who does not have the package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import load_metric
from robustiqa.bench.errors import Absent, BadData, BadImage, BadScore, Incompatible
from robustiqa.bench.registry import identity_of
from robustiqa.defenses import load_defense
from torch import nn


class Net(nn.Module):
    """Ratings from 1 to 5 as probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 5, stride=2), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(x)).mean((2, 3))).softmax(1)


@pytest.fixture
def net() -> Net:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'robustiqa[onnx]'")
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'robustiqa[onnx]'")
    torch.manual_seed(2)
    return Net().eval()


def graph(net: Net, path: Path, batch: object = "n", size: object = None, external: bool = False) -> str:
    """The network as an ONNX file, node by node: the test leans on no exporter."""
    onnx = importlib.import_module("onnx")
    helper, array = onnx.helper, onnx.numpy_helper
    weights = {k.replace(".", "_"): v.numpy() for k, v in net.state_dict().items()}
    initial = [array.from_array(value, name) for name, value in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", "conv_weight", "conv_bias"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "out_weight", "out_bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["ratings"], axis=1),
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info("x", kind, [batch, 3, size or "height", size or "width"]),
        helper.make_tensor_value_info("ratings", kind, [batch, 5]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], initial),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options: dict[str, Any] = (
        {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0} if external else {}
    )
    onnx.save(model, path, **options)
    return f"onnx[path={path},output=probabilities,mean=imagenet,std=imagenet,low=1,high=5]"


def expected(net: Net, x: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return net((x - mean[:, None, None]) / std[:, None, None]) @ torch.arange(1.0, 6.0)


@pytest.mark.parametrize("batch", ["n", 1])
def test_scores_are_those_of_the_network_in_torch(
    net: Net, tmp_path: Path, images: torch.Tensor, batch: object
) -> None:
    metric = load_metric(graph(net, tmp_path / "n.onnx", batch))
    assert torch.allclose(metric(images), expected(net, images), atol=1e-5)
    assert torch.equal(metric(images), metric(images))
    assert torch.allclose(metric(images), torch.cat([metric(x[None]) for x in images]), atol=1e-6)
    assert metric(images.double()).dtype == torch.float64
    assert metric.score_range == (1.0, 5.0)


def test_it_is_black_box_only(net: Net, tmp_path: Path, images: torch.Tensor) -> None:
    g = load_defense("none", load_metric(graph(net, tmp_path / "n.onnx")))
    with pytest.raises(Incompatible, match="does not give: use square"):
        load_attack("pgd")(g, images, Linf(4 / 255))
    found = load_attack("square[queries=60]")(g, images, Linf(8 / 255))
    assert (found.gain >= 0).all()
    assert found.gain.max() > 0
    certificate = load_defense("median-smoothing[n=100,m=5]", g.metric).certify(images, [0.02])
    assert (certificate.lo <= certificate.hi).all()


def test_identity_covers_the_file(net: Net, tmp_path: Path) -> None:
    text = graph(net, tmp_path / "n.onnx")
    before = identity_of("metric", text)
    assert "onnxruntime" in before
    net.out.bias.data += 1
    graph(net, tmp_path / "n.onnx")
    assert identity_of("metric", text) != before


def test_bad_files_are_named(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    with pytest.raises(BadData, match="does not exist"):
        load_metric(f"onnx[path={path}]")
    graph(net, path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BadData, match=r"cannot be (read|run)") as caught:
            load_metric(f"onnx[path={path}]")
        assert "\n" not in str(caught.value)


def test_weights_outside_the_file_are_refused(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = graph(net, tmp_path / "n.onnx", external=True)
    assert (tmp_path / "w.bin").is_file()
    monkeypatch.chdir(tmp_path)  # onnxruntime would find them there
    with pytest.raises(BadData, match="keeps weights in other files"):
        load_metric(text)


def test_a_graph_that_draws_random_numbers_is_refused(tmp_path: Path, images: torch.Tensor) -> None:
    """A dropout that was exported in training mode, say."""
    onnx = importlib.import_module("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("RandomUniformLike", ["m"], ["r"]),
        helper.make_node("Add", ["m", "r"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", kind, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("y", kind, ["n"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])  # fmt: skip
    onnx.save(model, tmp_path / "r.onnx")
    with pytest.raises(BadScore, match="two scores for one image"):
        load_metric(f"onnx[path={tmp_path / 'r.onnx'}]")(images)


def test_wrong_sizes_and_outputs_are_named(net: Net, tmp_path: Path, images: torch.Tensor) -> None:
    text = graph(net, tmp_path / "n.onnx", size=32)
    with pytest.raises(BadImage, match=r"fails on an input of shape \(3, 3, 48, 40\) .*give size="):
        load_metric(text)(images)
    assert load_metric(text.replace(",output", ",size=32,output"))(images).shape == (3,)
    with pytest.raises(BadScore, match=r"returned \(3, 5\) for 3 images"):
        load_metric(text.replace(",output=probabilities", ",size=32"))(images)


def test_graphs_of_other_inputs_are_named(net: Net, tmp_path: Path) -> None:
    onnx = importlib.import_module("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in ("a", "b", "y")]
    made = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", ends[:2], ends[2:])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(BadData, match="expected one float32 input"):
        load_metric(f"onnx[path={tmp_path / 'n.onnx'}]")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_without_the_package_the_sentence_says_which_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = importlib.import_module

    def without(name: str, *more: Any) -> Any:
        if name in ("onnx", "onnxruntime"):
            if name == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(Absent, match=rf"{missing}'.* pip install 'robustiqa\[onnx\]'"):
        load_metric("onnx[path=n.onnx]")
