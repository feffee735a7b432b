"""A compiled network gives the same scores up to rounding, in batches of any size, and says where it cannot."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, load_attack
from robustiqa.bench import load_metric
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.registry import identity_of
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import compiled as compiled_module
from robustiqa.defenses.certified.compiled import Compiled


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand((8, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean((1, 2, 3))


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What the compiled network is given: the compiler is left out."""
    seen: list[tuple[int, ...]] = []

    def compile(score, dynamic):
        assert dynamic is False

        def run(images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape))
            return score(images)

        return run

    monkeypatch.setattr(compiled_module.torch, "compile", compile)
    return seen


def test_batches_are_filled_up_to_the_largest_or_run_as_they_are(x: torch.Tensor, shapes) -> None:
    """So there is one compilation for each image size."""
    run = Compiled(brightness)
    for many in (8, 5, 4, 3, 1, 8):
        assert torch.equal(run(x[:many]), brightness(x[:many]))
    small = x[:, :, :48]
    assert torch.equal(run(small[:2]), brightness(small[:2]))
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(run(last[:2]), brightness(last[:2]))
    assert [shape[0] for shape in shapes] == [8, 8, 8, 8, 2, 2]


def test_only_scores_without_gradients_are_compiled(x: torch.Tensor, shapes) -> None:
    g = load_defense("median-smoothing[compiled=true,m=4,n=8]", load_metric("tiny-iqa"))
    g.certify(x[:1], [0.05])
    assert shapes == [(8, 3, 64, 64)]
    g.estimate(x[:1])
    assert shapes[1:] == [(8, 3, 64, 64)], "m = 4 draws, filled up"
    load_attack("eot-pgd[draws=8,steps=2]")(g, x[:1], L2(0.5), clean=g.estimate(x[:1]))
    plain = load_defense("median-smoothing[m=4,n=8]", load_metric("tiny-iqa"))
    assert np.allclose(g.certify(x, [0.05]).score, plain.certify(x, [0.05]).score, rtol=1e-5)
    assert identity_of("defense", g.spec) != identity_of("defense", plain.spec)


def test_where_nothing_can_be_compiled_it_says_so(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsupported(RuntimeError):
        """Stands for an error of the compiler."""

    Unsupported.__module__ = "torch._inductor.exc"

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise Unsupported("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(compiled_module.torch, "compile", lambda score, dynamic: broken)
    with pytest.raises(BadParameter, match=r"compiled=true: .*\(No working C\+\+ compiler found\): leave it out"):
        Compiled(brightness)(x)

    def full(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(compiled_module.torch, "compile", lambda score, dynamic: full)
    with pytest.raises(RuntimeError, match="not enough memory"):
        Compiled(brightness)(x)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ["median-smoothing", "dms-iqa", "median-smoothing[precision=bfloat16]"])
def test_the_compiled_network_scores_as_the_plain_one(x: torch.Tensor, name: str) -> None:
    stem, _, options = name.partition("[")
    options = options.removesuffix("]") + "," if options else ""
    found = [
        load_defense(f"{stem}[{options}compiled={word},n=40,m=9]", load_metric("tiny-iqa")).certify(x[:3], [0.05])
        for word in ("true", "false")
    ]
    tolerance = 0.5 if "bfloat16" in name else 1e-3
    assert np.allclose(found[0].hi, found[1].hi, rtol=0, atol=tolerance)
    assert np.allclose(found[0].score, found[1].score, rtol=0, atol=tolerance)
