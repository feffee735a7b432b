"""The number format of a smoothed defence: part of what it is, and the same wherever it is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import load_metric
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.registry import identity_of
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified.smoothed import Smoothed

NAMES = ("median-smoothing", "denoised-median-smoothing", "dms-iqa", "dms-iqa-tight")


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(3))


def defended(name: str, precision: str) -> Smoothed:
    g = load_defense(f"{name}[n=60,m=9,precision={precision}]", load_metric("tiny-iqa"))
    assert isinstance(g, Smoothed)
    return g


@pytest.mark.parametrize("name", NAMES)
def test_the_function_is_that_of_autocast(name: str, x: torch.Tensor) -> None:
    g = defended(name, "bfloat16")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        clean = x if g.denoiser is None else g.denoiser(x)
        expected = g.metric(clean).float()
    with torch.inference_mode():
        assert torch.equal(g.base_score(x), expected)
        plain = defended(name, "float32").base_score(x)
    assert 0 < float((plain - expected).abs().max()) < 3, "another function, and not far off"


def test_score_certificate_and_gradient_are_of_the_same_function(x: torch.Tensor) -> None:
    """Each is recognised by its scores: those that autocast gives on the same noise."""
    g = defended("dms-iqa", "bfloat16")
    keys = image_keys(x)
    seen: list[torch.dtype] = []

    def watch(module: torch.nn.Module, given: object, scores: torch.Tensor) -> None:
        seen.append(scores.dtype)

    g.metric.module.register_forward_hook(watch)
    g.estimate(x)
    g.certify(x, [0.05])
    load_attack("eot-pgd[steps=2,draws=2]")(g, x, Linf(2 / 255))
    rows = g.surrogate(x.clone().requires_grad_(), Streams.create(keys, Role.SEARCH), 2)
    assert rows.requires_grad
    assert rows.dtype == torch.float32
    assert set(seen) == {torch.bfloat16}


def test_the_format_is_part_of_the_identity_and_draws_are_not_shared(x: torch.Tensor, tmp_path) -> None:
    specs = [defended("median-smoothing", p).spec for p in ("float32", "bfloat16")]
    assert identity_of("defense", specs[0]) != identity_of("defense", specs[1])
    pools = [defended("median-smoothing", p) for p in ("float32", "bfloat16")]
    assert pools[0].draw_identity(0) != pools[1].draw_identity(0)
    alone = pools[1].certify(x, [0.05])
    pools[0].certify(x, [0.05], pool=tmp_path)
    assert np.array_equal(pools[1].certify(x, [0.05], pool=tmp_path).hi, alone.hi)


def test_another_word_is_one_sentence() -> None:
    with pytest.raises(BadParameter, match="float32, bfloat16, float16"):
        defended("median-smoothing", "double")
