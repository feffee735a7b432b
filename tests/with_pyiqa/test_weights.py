"""A user's own file of weights and options: what is taken, and what is refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import scipy.io
import torch
from robustiqa.bench import load_metric
from robustiqa.bench.errors import Absent, BadData, BadParameter, UnknownName
from robustiqa.bench.metrics.pyiqa.package import declared
from safetensors.torch import save_file


def test_the_weights_are_those_of_the_file(random_weights, random_pyiqa, tmp_path: Path) -> None:
    """However they are wrapped; and the score is what the same network gives that was built another way."""
    path = random_weights("dbcnn")
    state = torch.load(path)
    x = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        expected = random_pyiqa.random_network(declared("dbcnn")).eval()(x).reshape(-1)
    assert torch.equal(load_metric(f"pyiqa:dbcnn[weights={path}]")(x), expected)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"params": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        assert torch.equal(load_metric(f"pyiqa:dbcnn[weights={tmp_path / name}]")(x), expected)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize(("metric", "file"), [("metaiqa", "w.pth"), ("brisque", "w.pth"), ("brisque", "w.mat")])
def test_a_file_with_code_is_refused_and_not_run(metric: str, file: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / file
    torch.save({"params": Code(f"touch {trace}")}, path)
    with pytest.raises(BadData, match="could run code"):
        load_metric(f"pyiqa:{metric}[weights={path}]")
    assert not trace.exists()


def test_a_file_that_does_not_fit_is_refused(random_weights, tmp_path: Path) -> None:
    """metaiqa is the one that pyiqa loads without looking: an empty file leaves it untrained, silently."""
    path = tmp_path / "w.pth"
    state = torch.load(random_weights("metaiqa"))
    first = sorted(state)[0]
    cases = {
        "lacks": {},
        f"lacks {first};": {k: v for k, v in state.items() if k != first},
        "has other besides": state | {"other": torch.zeros(1)},
        f"has other shapes of {first};": state | {first: torch.zeros(3, 1)},
        "lacks .* and has ": torch.load(random_weights("cnniqa")),
        "not finite": {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in state.items()},
        "not a state dict": [1, 2],
    }
    for words, content in cases.items():
        torch.save(content, path)
        with pytest.raises(BadData, match=words):
            load_metric(f"pyiqa:metaiqa[weights={path}]")
    name = "resnet_layer.conv1.weight"
    for content in (state | {name: state[name].to_sparse()}, state | {name: state[name].to("meta")}, {1: state[name]}):
        torch.save(content, path)
        with pytest.raises(BadData, match="not a state dict"):
            load_metric(f"pyiqa:metaiqa[weights={path}]")
    torch.save(state | {name: torch.zeros(1).expand(10**6, 10**6)}, path)  # terabytes, to whoever looks at the values
    with pytest.raises(BadData, match="other shapes"):
        load_metric(f"pyiqa:metaiqa[weights={path}]")
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    for end in range(0, path.stat().st_size - 16, 16):  # torch's reader of the old layout fails in many ways
        (path.parent / "cut.pth").write_bytes(path.read_bytes()[:end])
        with pytest.raises(BadData, match="cannot be read"):
            load_metric(f"pyiqa:metaiqa[weights={path.parent / 'cut.pth'}]")
    path.write_text("not weights at all")
    with pytest.raises(BadData, match="cannot be read"):
        load_metric(f"pyiqa:metaiqa[weights={path}]")
    with pytest.raises(BadData, match="do not exist"):
        load_metric(f"pyiqa:metaiqa[weights={tmp_path / 'none.pth'}]")


def test_files_that_are_no_state_dict(random_weights, tmp_path: Path) -> None:
    assert load_metric(f"pyiqa:niqe[weights={random_weights('niqe')}]").min_size == 96
    assert load_metric(f"pyiqa:brisque[weights={random_weights('brisque')}]").lower_better
    foreign = tmp_path / "foreign.mat"
    scipy.io.savemat(foreign, {"other": [1.0]})
    with pytest.raises(BadData, match="do not fit pyiqa:niqe"):
        load_metric(f"pyiqa:niqe[weights={foreign}]")
    small = tmp_path / "small.mat"
    scipy.io.savemat(small, {"mu_prisparam": [[1.0, 2.0]], "cov_prisparam": [[1.0, 0.0], [0.0, 1.0]]})
    with pytest.raises(BadData, match="do not fit pyiqa:niqe"):
        load_metric(f"pyiqa:niqe[weights={small}]")
    pair = tmp_path / "pair.pth"
    torch.save((torch.zeros(5), torch.zeros(5, 7)), pair)
    with pytest.raises(BadData, match="do not fit pyiqa:brisque"):
        load_metric(f"pyiqa:brisque[weights={pair}]")


def test_metrics_without_a_single_file_say_so(random_weights) -> None:
    path = random_weights("cnniqa")
    with pytest.raises(BadParameter, match="no single file of weights"):
        load_metric(f"pyiqa:piqe[weights={path}]")
    with pytest.raises(Absent, match=r"RN50\.pt"):  # its own weights are replaced, CLIP is not
        load_metric(f"pyiqa:clipiqa+[weights={path}]")


def test_options_are_numbers_switches_and_words_for_weights(random_weights) -> None:
    path = random_weights("hyperiqa")
    x = torch.rand(1, 3, 230, 230)
    few: Any = load_metric(f"pyiqa:hyperiqa[weights={path},options=num_crop=4]")
    crops = torch.cat([x[:, :, top : top + 224, left : left + 224] for top in (0, 3) for left in (0, 3)])
    expected = few.module.net.net.forward_patch(crops).mean().reshape(1)
    torch.testing.assert_close(few(x), expected, rtol=1e-5, atol=1e-6)
    for text, words in (
        ("num_crop=many", "expected a int"),
        ("num_crop=2.5", "expected a int"),
        ("num_crop", "expected option=value"),
        ("base_model_name=resnet18", "cannot be set here"),
        ("pretrained_model_path=/tmp/x", "cannot be set here"),
        ("pretrained=false", "one of pyiqa's weights, resnet50-koniq"),
    ):
        with pytest.raises(BadParameter, match=words):
            load_metric(f"pyiqa:hyperiqa[options={text}]")
    with pytest.raises(UnknownName, match="did you mean 'num_crop'"):
        load_metric("pyiqa:hyperiqa[options=num_crops=3]")
    with pytest.raises(Absent, match="DBCNN_LIVEC-83f6dad3"):
        load_metric("pyiqa:dbcnn[options=pretrained=livec]")
