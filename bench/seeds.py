"""Random streams that depend on what is measured, never on how the work was cut up.

Every random number of the suite comes from a `torch.Generator` seeded with sha256(base seed, image content, role). So
a result is the same whatever the batch, chunk, worker or device count, and two roles never share a draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class Role(StrEnum):
    """What a random stream is used for; the first four are disjoint: what one chooses, another judges."""

    SEARCH = "search"
    SELECTION = "selection"
    EVALUATION = "evaluation"
    CERTIFICATION = "certification"


_WORTH_THREADS = 2**22
"""Numbers, a dozen milliseconds' work, from which several threads draw. For some milliseconds after a batch the
network's own threads, which wait for the next one by looking for it again and again, leave them no core."""


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts; torch's CPU generator uses the low 32 bits of it."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def image_key(image: torch.Tensor) -> str:
    """Digest of one image's content: (3,H,W) float32."""
    data = image.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(data.shape)).encode())
    digest.update(data.numpy().data)
    return digest.hexdigest()


def image_keys(x: torch.Tensor) -> list[str]:
    """`image_key` of each of the images (B,3,H,W)."""
    keys = [""] * len(x)

    def digest(i: int) -> None:
        keys[i] = image_key(x[i])

    in_threads(digest, len(x), x.numel())
    return keys


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded from `parts`; drawn on the CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def in_threads(draw: Callable[[int], None], streams: int, numbers: int) -> None:
    """Call draw(0), draw(1), ... for streams of their own, several at once if so many numbers are worth it.

    Torch draws in one thread and gives the interpreter's lock back, as hashing does, so as many threads as torch may
    take help.
    """
    threads = min(torch.get_num_threads(), streams)
    if threads < 2 or numbers < _WORTH_THREADS:
        for i in range(streams):
            draw(i)
        return
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(in_this_mode(draw), range(streams)))


def in_this_mode(work: Callable[P, T]) -> Callable[P, T]:
    """The work for another thread, in the inference mode of this one: what is made in it can be written in it alone.

    Gradients are recorded there if they are here, too.
    """
    mode, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def there(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(mode), torch.set_grad_enabled(gradients):
            return work(*args, **kwargs)

    return there


@dataclass(frozen=True)
class Streams:
    """One independent stream an image, for one role.

    A stream goes on where it stopped: two calls of `normal(k)` give the same draws as one of `normal(2 k)`, because
    each draw of each image is a call of its own to that image's generator.
    """

    generators: tuple[torch.Generator, ...]

    @classmethod
    def create(cls, keys: Sequence[str], role: Role, seed: int = 0, *extra: object) -> Streams:
        """Streams for the images with these content keys."""
        return cls(tuple(generator(seed, key, role.value, *extra) for key in keys))

    def __len__(self) -> int:
        return len(self.generators)

    def __getitem__(self, index: slice | Sequence[int]) -> Streams:
        """The streams of some of the images, not copied: drawing from them moves the originals on."""
        if isinstance(index, slice):
            return Streams(self.generators[index])
        return Streams(tuple(self.generators[i] for i in index))

    def fork(self) -> Streams:
        """Copies that start where these stand; lets two calls see the same draws (common random numbers)."""
        copies = tuple(torch.Generator() for _ in self.generators)
        for copy, original in zip(copies, self.generators, strict=True):
            copy.set_state(original.get_state())
        return Streams(copies)

    def normal(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Standard normal noise (draws, B, 3, H, W) for images x (B,3,H,W), on x's device."""
        noise = torch.empty((draws, *x.shape), dtype=torch.float32)

        def draw(i: int) -> None:
            for one in noise[:, i].unbind(0):
                one.normal_(generator=self.generators[i])

        in_threads(draw, len(self.generators), noise.numel())
        return noise.to(x.device)

    def uniform(self, x: torch.Tensor) -> torch.Tensor:
        """Uniform noise in [-1,1], (B,3,H,W) like x."""
        parts = [torch.rand(x.shape[1:], generator=stream) for stream in self.generators]
        return torch.stack(parts).mul_(2).sub_(1).to(x.device)

    def numbers(self, count: int) -> torch.Tensor:
        """Uniform numbers in [0,1), (B,count) in double precision on the CPU: places, sizes, coins."""
        return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in self.generators])
