"""Random streams: reproducible, disjoint, and the same however the work is cut."""

from __future__ import annotations

import hashlib

import torch
from robustiqa.bench.seeds import Role, Streams, derive_seed, image_key, image_keys
from support import torch_threads


def _streams(keys: list[str], role: Role = Role.SEARCH, seed: int = 0) -> Streams:
    return Streams.create(keys, role, seed)


def test_draws_do_not_depend_on_how_many_are_asked_at_once() -> None:
    # 5x7 and 3 channels: 105 values, not a multiple of the vector width of torch's generator.
    x = torch.zeros(2, 3, 5, 7)
    at_once = _streams(["a", "b"]).normal(x, 6)
    stream = _streams(["a", "b"])
    assert torch.equal(at_once, torch.cat([stream.normal(x, k) for k in (1, 2, 3)]))


def test_draws_do_not_depend_on_the_other_images() -> None:
    x = torch.zeros(3, 3, 8, 8)
    together = _streams(["a", "b", "c"]).normal(x, 2)
    alone = _streams(["b"]).normal(x[:1], 2)
    assert torch.equal(together[:, 1:2], alone)


def test_roles_seeds_and_images_have_disjoint_streams() -> None:
    x = torch.zeros(1, 3, 8, 8)
    draws = [_streams([key], role, seed).normal(x, 1) for key in "ab" for role in Role for seed in (0, 1)]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert abs(float((first * second).mean())) < 0.4
            assert not torch.equal(first, second)


def test_fork_repeats_and_does_not_advance() -> None:
    x = torch.zeros(1, 3, 4, 4)
    stream = _streams(["a"])
    copy = stream.fork()
    assert torch.equal(copy.normal(x, 2), stream.normal(x, 2))


def test_global_generator_is_neither_used_nor_moved() -> None:
    before = torch.random.get_rng_state()
    first = _streams(["a"]).normal(torch.zeros(1, 3, 4, 4), 1)
    torch.manual_seed(99)
    second = _streams(["a"]).normal(torch.zeros(1, 3, 4, 4), 1)
    assert torch.equal(first, second)
    torch.random.set_rng_state(before)


def test_image_key_is_about_content() -> None:
    x = torch.rand(3, 6, 4)
    assert image_key(x) == image_key(x.clone())
    assert image_key(x) != image_key(x.reshape(3, 4, 6))
    assert image_key(x) != image_key(x + 1e-6)
    written = hashlib.sha256(b"(3, 6, 4)" + x.numpy().tobytes()).hexdigest()  # stored results name images by it
    assert image_key(x) == image_key(x.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == written


def test_keys_of_many_images_are_those_of_each() -> None:
    x = torch.rand(3, 3, 700, 700)
    assert x.numel() > 2**22, "enough for threads"
    with torch_threads(2):
        assert image_keys(x) == [image_key(image) for image in x]
    assert image_keys(x[:0]) == []


def test_derive_seed_is_pinned() -> None:
    """Stored results depend on it: sha256 of the parts joined by the unit separator, 8 bytes, shifted by one."""
    expected = int.from_bytes(hashlib.sha256(b"0\x1fkey\x1fsearch").digest()[:8], "big") >> 1
    assert derive_seed(0, "key", "search") == expected
