"""Weights of others: every layout that is read, and every file that is refused, with nothing in it run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from robustiqa.bench.errors import BadData
from robustiqa.bench.foreign_weights import load_foreign
from safetensors.torch import save_file
from torch import nn

State = dict[str, torch.Tensor]


class Net(nn.Module):
    """A convolution, a batch norm and a layer, named so that one name ends like another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.net(x).mean((2, 3))).squeeze(1)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(4)
    return Net()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS: list[Callable[[State], Any]] = [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    lambda s: {"params": prefixed(s, "module.")},
    lambda s: prefixed(s, "module.model."),
    lambda s: prefixed(s, "net."),  # also the name of a layer
    lambda s: {"model": {k: v for k, v in s.items() if "num_batches" not in k}},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("legacy", [False, True])
def test_layouts_of_pickles_are_read(net: Net, tmp_path: Path, layout: Callable[[State], Any], legacy: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(layout(dict(net.state_dict())), path, _use_new_zipfile_serialization=not legacy)
    found = load_foreign(Net(), path)
    assert same(net, found)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


def test_safetensors_and_half_precision_are_read(net: Net, tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(prefixed(state, "module."), tmp_path / "w.safetensors")
    found = load_foreign(Net(), tmp_path / "w.safetensors")
    assert torch.equal(found.out.weight, net.out.weight.half().float())
    assert found.out.weight.dtype == torch.float32


def test_key_and_prefix_choose(net: Net, tmp_path: Path) -> None:
    other = {k: v + 1 for k, v in net.state_dict().items()}
    path = tmp_path / "w.pth"
    torch.save({"params": prefixed(net.state_dict(), "a."), "params_ema": prefixed(other, "b.")}, path)
    with pytest.raises(BadData, match=r"several networks: choose one with key=params\|params_ema"):
        load_foreign(Net(), path)
    assert same(net, load_foreign(Net(), path, key="params", prefix="a."))
    assert torch.equal(load_foreign(Net(), path, key="params_ema").out.bias, net.out.bias + 1)
    with pytest.raises(BadData, match=r"without the prefix 'b\.': 'a\."):
        load_foreign(Net(), path, key="params", prefix="b.")
    with pytest.raises(BadData, match="no entry 'weights': there is entries 'params', 'params_ema'"):
        load_foreign(Net(), path, key="weights")
    with pytest.raises(BadData, match=r"missing: 'net\.0\.weight'"):
        load_foreign(Net(), path, key="params", prefix="")


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: s.pop("out.bias"), r"missing: 'out\.bias'\)"),
    (lambda s: s.pop("net.1.running_var"), r"missing: 'net\.1\.running_var'\)"),
    (lambda s: s.update(extra=torch.zeros(2)), r"unknown: 'extra'\)"),
    (lambda s: s.update({"out.bias": torch.zeros(2)}), r"'out\.bias' is \(2,\), expected \(1,\)"),
    (lambda s: s.update({"out.bias": torch.zeros(1, dtype=torch.int64)}), "is torch.int64, expected torch.float32"),
    (lambda s: s["out.weight"].fill_(float("nan")), r"'out\.weight' holds values that are not finite"),
])  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_that_do_not_belong_are_refused(
    net: Net, tmp_path: Path, change: Callable[[State], object], words: str, prefix: str
) -> None:
    state = {k: v.clone() for k, v in net.state_dict().items()}
    change(state)
    torch.save({"state_dict": prefixed(state, prefix)}, tmp_path / "w.pth")
    with pytest.raises(BadData, match=words) as caught:
        load_foreign(Net(), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "code was run"))


@pytest.mark.parametrize("how", ["pickle", "torch", "hidden"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(net: Net, tmp_path: Path, how: str) -> None:
    written, path = tmp_path / "written", tmp_path / "w.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Bomb(written)))
    else:
        torch.save(
            {"state_dict": dict(net.state_dict()), "args": _Bomb(written)} if how == "hidden" else _Bomb(written), path
        )
    with pytest.raises(BadData, match="cannot be read as tensors") as caught:
        load_foreign(Net(), path)
    assert "weights_only" not in str(caught.value)  # torch's own words are how to run it all the same
    assert not written.exists()
    # The file is a bomb indeed: without the care it goes off.
    if how != "pickle":
        torch.load(path, weights_only=False)
        assert written.exists()


@pytest.mark.parametrize("odd", [
    lambda v: v.to_sparse(),
    lambda v: v.to("meta"),
    lambda v: v.to_sparse_csr() if v.ndim == 2 else v.to_sparse(),
])  # fmt: skip
def test_tensors_that_hold_no_ordinary_numbers_are_refused(net: Net, tmp_path: Path, odd: Callable[..., Any]) -> None:
    state = net.state_dict()
    name = next(key for key in state if key.endswith("weight"))
    torch.save(state | {name: odd(state[name])}, tmp_path / "w.pth")
    with pytest.raises(BadData, match=f"{name}' is sparse, quantised or without values"):
        load_foreign(Net(), tmp_path / "w.pth")


def test_files_that_are_none_are_refused(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(BadData, match="do not exist"):
        load_foreign(Net(), path)
    torch.save(net.state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(BadData, match="cannot be read as tensors"):
            load_foreign(Net(), path)
    (tmp_path / "w.safetensors").write_bytes(whole)
    with pytest.raises(BadData, match="cannot be read as tensors"):
        load_foreign(Net(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("held", [[1, 2], {"state_dict": 3}, {}, {"a": {"b": {"c": torch.zeros(1)}}}, torch.zeros(3)])
def test_files_without_a_table_of_tensors_are_refused(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(BadData, match="hold no table of tensors"):
        load_foreign(Net(), tmp_path / "w.pth")


def test_a_network_saved_as_a_whole_is_refused(net: Net, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 1), tmp_path / "w.pth")
    with pytest.raises(BadData, match="cannot be read as tensors"):
        load_foreign(nn.Linear(2, 1), tmp_path / "w.pth")
