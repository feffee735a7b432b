"""Noise on images; for certificates one pool of Gaussian draws for many, turned for each by signs of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ...bench.seeds import Role, generator, in_this_mode, in_threads

LANES = 8
"""Generators of a pool that many images share. Draw k comes from number k modulo LANES: several work side by side."""

SHARED_FROM = 3 * 64 * 64
"""Fewest numbers in an image for a shared pool. What two images then have in common, the absolute values of their
noise, is as good as nothing; in a few dimensions it is much, and drawing costs little."""

AT_ONCE = 2**23
"""Most numbers that several threads draw at once for blocks that are used one after the other: 32 MiB."""


class Pool:
    """Standard normal vectors G_1, G_2, ... in a fixed order, drawn on the CPU so that every device sees the same.

    Args:
        numbers: length of a vector.
        lanes: generators, which take turns.
    """

    def __init__(self, numbers: int, lanes: Sequence[torch.Generator]) -> None:
        self.numbers, self.done, self._lanes = numbers, 0, lanes

    def fill(self, rows: torch.Tensor) -> None:
        """Write the next vectors into rows (draws, numbers), float32 on the CPU."""

        def draw(lane: int) -> None:
            for row in rows[self._first(lane) :: len(self._lanes)]:
                row.normal_(generator=self._lanes[lane])

        in_threads(draw, len(self._lanes), rows.numel())
        self.done += len(rows)

    def skip(self, draws: int) -> None:
        """Leave vectors out; costs what drawing them does, but no memory."""

        def drop(lane: int) -> None:
            row = torch.empty(self.numbers)
            for _ in range(self._first(lane), draws, len(self._lanes)):
                row.normal_(generator=self._lanes[lane])

        in_threads(drop, len(self._lanes), draws * self.numbers)
        self.done += draws

    def part(self, k: int, parts: int) -> Pool:
        """Those of the next vectors whose number is k modulo `parts`, which divides the lanes; from the same lanes."""
        share = Pool(self.numbers, self._lanes[k::parts])
        share.done = -(-(self.done - k) // parts)
        return share

    def _first(self, lane: int) -> int:
        """Which of the next vectors is the first from a generator."""
        return (lane - self.done) % len(self._lanes)


def _apart(drawn: Drawn, sizes: Sequence[int]) -> Iterator[Drawn]:
    """The blocks of draws that were made at once."""
    done = 0
    for size in sizes:
        yield Drawn(drawn.images, drawn.values[done : done + size])
        done += size


def _run(index: Sequence[int]) -> slice | list[int]:
    """Indices as a slice where they follow one another: a list would copy what it is asked of."""
    first, last = index[0], index[-1]
    follows = list(index) == list(range(first, last + 1))
    return slice(first, last + 1) if follows else list(index)


def noised(x: torch.Tensor, noise: torch.Tensor, sigma: float, memory_format: torch.memory_format) -> torch.Tensor:
    """Images x (B,3,H,W) under noise (k,B,3,H,W): (k*B,3,H,W), all images of the first draw, and so on; not clamped.

    One pass over the memory, into the order in which the network wants it. Differentiable in x, once.
    """
    return _Noised.apply(x, noise, sigma, memory_format)


class _Noised(torch.autograd.Function):
    """`noised`, whose gradient adds up those of the draws in the order in which they lie in memory."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, noise: torch.Tensor, sigma: float, memory_format: torch.memory_format
    ) -> torch.Tensor:
        ctx.images = noise.shape[:2]
        shape = (len(noise) * len(x), *x.shape[1:])
        noisy = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
        images = noisy.unflatten(0, ctx.images)
        if x.device.type != "cpu" or memory_format != torch.channels_last:
            torch.add(x, noise, alpha=sigma, out=images)
            return noisy
        x = x.contiguous()  # as the noise is; all channels at once would go along them, three numbers at a time
        for c in range(x.shape[1]):
            torch.add(x[:, c], noise[:, :, c], alpha=sigma, out=images[:, :, c])
        return noisy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator hides the names)
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        draws = gradients[0].unflatten(0, ctx.images).unbind(0)
        total = draws[0].clone()
        for draw in draws[1:]:
            total += draw
        return total, None, None, None


class Drawn(NamedTuple):
    """Some draws for some images: (d,1,numbers) where they share a pool, else (d,b,numbers); on their device.

    They lie in a buffer that the next draws are written over.
    """

    images: Sequence[int]
    values: torch.Tensor


class CertificationNoise:
    """Standard normal noise s_i * G_k, draw k of image i: G_k is drawn once for all images, s_i are the image's signs.

    A Gaussian vector turned by fixed signs is Gaussian, and G_1, G_2, ... are independent of each other and of s_i. So
    the draws of each image are independent and standard normal, exactly, which is all that a certificate asks.
    Statements about several images rest on a union bound, which needs no independence of them.

    The signs follow from the image's content. Without them the pool would be the same for every image, and somebody who
    knows the seed could look for an image that these very draws flatter.

    Drawing is a large part of the bill of a compact network, and cannot be had faster from torch: on the CPU core that
    this was written on, 3.4 ns a number, where tiny-iqa takes 16 ns. B images share it. Images below `SHARED_FROM` have
    streams of their own instead, `Streams` of the same names.

    Args:
        x: (B,3,H,W) images.
        keys: their content keys.
        seed: base seed.
        extra: what tells draws of another purpose from these.
        memory_format: order in memory in which the network wants images, see `bench.memory`. The numbers of a draw are
            laid down in this order: which pixel gets which does not matter, and turning them round costs time.
    """

    def __init__(
        self,
        x: torch.Tensor,
        keys: Sequence[str],
        seed: int = 0,
        *extra: object,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._shape, self._last = tuple(x.shape[1:]), memory_format == torch.channels_last
        self._x = (x.permute(0, 2, 3, 1) if self._last else x).reshape(len(x), -1)
        self._keys, self._named = keys, (seed, extra)
        self.numbers = self._x.shape[1]
        self.shared = self.numbers >= SHARED_FROM
        self._pools, self._signs = self._begin(), None
        self._buffers = dict[str, torch.Tensor]()
        if self.shared:
            signs = torch.empty((len(keys), self.numbers))
            in_threads(lambda i: self._write_signs(keys[i], signs[i]), len(keys), signs.numel())
            self._signs = signs.to(x)

    def __len__(self) -> int:
        return len(self._x)

    def next(self, images: Sequence[int], draws: int) -> Drawn:
        """The next draws of some of the images."""
        return self._next(self._pools, images, draws)

    def blocks(self, images: Sequence[int], sizes: Sequence[int], ahead: bool | None = None) -> Iterator[Drawn]:
        """The next draws of some of the images, block after block; each lies there until the one after it is asked for.

        Args:
            images: which.
            sizes: draws in each block.
            ahead: draw in a thread while earlier blocks are at work; None for doing so where that is on another device.
                On a CPU the network has all threads already.
        """
        groups = self._groups(len(images), sizes)
        if not (self.device.type != "cpu" if ahead is None else ahead):
            for group in groups:
                yield from _apart(self.next(images, sum(group)), group)
            return
        with ThreadPoolExecutor(1) as executor:
            draw = in_this_mode(self._next)
            waiting: Future[Drawn] | None = None
            for k, group in enumerate(groups):
                coming = executor.submit(draw, self._pools, images, sum(group), f"drawn {k % 2}")
                if waiting is not None:
                    yield from _apart(waiting.result(), groups[k - 1])
                waiting = coming
            if waiting is not None:
                yield from _apart(waiting.result(), groups[-1])

    def _groups(self, images: int, sizes: Sequence[int]) -> list[list[int]]:
        """Sizes of blocks that are drawn at once.

        With one thread each is drawn when it is needed, and lies in the cache. With several, the network's threads are
        in the way for some milliseconds after each batch, since they wait for the next one by looking for it again and
        again: it pays to draw for longer.
        """
        numbers = self.numbers * (1 if self.shared else images)
        most = AT_ONCE if torch.get_num_threads() > 1 else 0
        groups: list[list[int]] = []
        for size in sizes:
            if groups and (sum(groups[-1]) + size) * numbers <= most:
                groups[-1].append(size)
            else:
                groups.append([size])
        return groups

    def divisor(self, threads: int) -> int:
        """In how many parts for so many threads it can be cut; 1 where images have streams of their own."""
        return next(k for k in range(min(threads, LANES), 0, -1) if LANES % k == 0) if self.shared else 1

    def parts(self, count: int) -> Sequence[CertificationNoise]:
        """This noise cut up for several threads: part k has the draws whose number is k modulo `count`.

        They draw from the same generators, so this one has to be told by `passed` what they have drawn.

        Args:
            count: a divisor of LANES; only of a shared pool.
        """
        views = [copy.copy(self) for _ in range(count)]
        for k, view in enumerate(views):
            view._pools, view._buffers = [self._pools[0].part(k, count)], {}
        return views

    def passed(self, draws: int) -> None:
        """Take it that so many draws were made by its parts."""
        for pool in self._pools:
            pool.done += draws

    @property
    def done(self) -> int:
        """Draws that were made so far."""
        return self._pools[0].done

    def first(self, images: Sequence[int]) -> Drawn:
        """The first draw of some of the images, wherever the noise stands."""
        return self._next(self._begin(), images, 1)

    def skip(self, draws: int) -> None:
        """Leave out draws of all images."""
        for pool in self._pools:
            pool.skip(draws)

    def noisy(self, drawn: Drawn, part: slice, begin: int, sigma: float) -> torch.Tensor:
        """Images under draws: x_i + sigma * s_i * G_k, in one pass over the memory.

        Args:
            drawn: draws.
            part: which of its images, b of them.
            begin: which of its draws is the first, of d.
            sigma: noise level in [0,1] pixel units.

        Returns:
            (d*b,3,H,W), all images of the first draw, and so on; not clamped; overwritten by the next call.
        """
        index = _run(drawn.images[part])
        x = self._x[index]
        flat = self._buffer("noisy", (len(drawn.values) - begin, len(x), self.numbers), self.device)
        if self._signs is None:
            torch.add(x, drawn.values[begin:, part], alpha=sigma, out=flat)
        else:
            torch.addcmul(x, self._signs[index], drawn.values[begin:], value=sigma, out=flat)
        channels, height, width = self._shape
        if self._last:
            return flat.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(-1, channels, height, width)

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self._shape[1] * self._shape[2]

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self._x.device

    def _begin(self) -> list[Pool]:
        """The pools at their beginning: one for all images, or one for each."""
        seed, extra = self._named
        role = Role.CERTIFICATION.value
        if self.shared:
            return [Pool(self.numbers, [generator(seed, "pool", role, *extra, *self._shape, k) for k in range(LANES)])]
        return [Pool(self.numbers, [generator(seed, key, role, *extra)]) for key in self._keys]

    def _next(self, pools: Sequence[Pool], images: Sequence[int], draws: int, buffer: str = "drawn") -> Drawn:
        chosen = pools if self.shared else [pools[i] for i in images]
        values = self._buffer(buffer, (draws, len(chosen), self.numbers), torch.device("cpu"))
        for k, pool in enumerate(chosen):
            pool.fill(values[:, k])
        return Drawn(images, values.to(self.device))

    def _buffer(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Memory that is asked for once: fresh pages cost a third of what is written into them."""
        size, held = math.prod(shape), self._buffers.get(name)
        if held is None or len(held) < size:
            held = self._buffers[name] = torch.empty(size, device=device)
        return held[:size].view(shape)

    def _write_signs(self, key: str, signs: torch.Tensor) -> None:
        """Random signs of an image, (numbers,) of -1 and 1, from a bit each: numbers take ten times as long."""
        seed, extra = self._named
        source = generator(seed, "signs", Role.CERTIFICATION.value, *extra, key)
        words = torch.empty(-(-self.numbers // 64), dtype=torch.int64).random_(-(2**63), None, generator=source)
        bits = np.unpackbits(words.numpy().view(np.uint8), count=self.numbers, bitorder="little")
        signs.copy_(torch.from_numpy(bits)).mul_(2).sub_(1)
