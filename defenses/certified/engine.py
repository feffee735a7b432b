"""The sampling engine: scores of images under Gaussian noise, in memory that does not grow with their number."""

from __future__ import annotations

import bisect
import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...bench.api import Progress
from ...bench.errors import BadData
from ...bench.files import write_atomically
from ...bench.objective import MAX_PIXELS
from ...bench.seeds import Streams
from ...bench.threads import crew, going_on, shares, side_by_side
from .batches import Batches
from .noise import CertificationNoise, noised

SAVE_EVERY = 10.0
"""Seconds of sampling that an interruption may cost where the draws are kept."""

Score = Callable[[torch.Tensor], torch.Tensor]
"""(b,3,H,W) noisy images, not clamped, to (b,) scores."""


class Shelf:
    """A folder of draws, one file an image and noisy metric; what cannot be read is drawn again.

    The identity names the code and weights that we know of. What it cannot see (a helper that a plug-in imports,
    weights changed in memory) shows in the first draw, which is scored again before kept draws are used.

    Args:
        folder: made if it does not exist.
        identity: all that decides a draw except the image: metric, noise, code, seed.
        keys: content keys of the images.
    """

    def __init__(self, folder: Path, identity: str, keys: Sequence[str]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadData(f"cannot keep draws in {str(folder)!r} ({error.strerror}): choose another folder") from error
        digests = [hashlib.sha256(f"{identity}\x1f{key}".encode()).hexdigest()[:32] for key in keys]
        self._paths = [folder / f"{digest}.npz" for digest in digests]

    def load(self, i: int) -> np.ndarray:
        """The scores (k,) that are kept of the first draws of image i; none where there is no good file."""
        try:
            with np.load(self._paths[i], allow_pickle=False) as file:
                draws = file["draws"]
                whole = hashlib.sha256(draws.tobytes()).digest() == file["digest"].tobytes()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return np.empty(0)
        return draws if whole and draws.ndim == 1 and draws.dtype == np.float64 else np.empty(0)

    def save(self, i: int, draws: np.ndarray) -> None:
        """Keep the scores (k,) of the first draws of image i, atomically; raises `BadData` when the disk is full."""
        buffer = io.BytesIO()
        digest = hashlib.sha256(draws.tobytes()).digest()
        np.savez(buffer, draws=draws, digest=np.frombuffer(digest, dtype=np.uint8))
        write_atomically(self._paths[i], buffer.getvalue())


def sample_scores(
    score: Score,
    x: torch.Tensor,
    sigma: float,
    n: int,
    rng: Streams,
    memory_format: torch.memory_format = torch.contiguous_format,
    threads: int = 1,
) -> np.ndarray:
    """Draw n samples of `score(x + sigma G)` for each image, from a stream of each.

    A batch holds draws of one image, or all draws of several where n is small. The samples do not depend on how images
    are grouped, up to the network's float rounding in batches of another size (relative 1e-6).

    Args:
        score: what is sampled.
        x: (B,3,H,W) in [0,1].
        sigma: noise level in [0,1] pixel units.
        n: draws an image.
        rng: one stream an image; they move on.
        memory_format: order in memory in which the network wants images, see `bench.memory`.
        threads: how many may call `score` at once.

    Returns:
        (B,n) float64, in the order of the draws.
    """
    if (parts := min(threads, len(x))) > 1:
        found = side_by_side(
            lambda part: sample_scores(score, x[part], sigma, n, rng[part], memory_format),
            shares(len(x), parts),
            parts,
        )
        return np.concatenate(found)
    samples = np.empty((len(x), n))
    fits = Batches(score)
    most = max(1, MAX_PIXELS // crew() // (x.shape[2] * x.shape[3]))
    together = max(1, most // n)
    for first in range(0, len(x), together):
        part = slice(first, min(first + together, len(x)))
        for start in range(0, n, most):
            stop = min(start + most, n)
            noisy = noised(x[part], rng[part].normal(x[part], stop - start), sigma, memory_format)
            scores = fits(noisy).double().cpu().numpy()
            samples[part, start:stop] = scores.reshape(stop - start, -1).T
            going_on()
    return samples


def certification_scores(
    score: Score,
    noise: CertificationNoise,
    sigma: float,
    n: int,
    index: Sequence[int] | None = None,
    shelf: Shelf | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Draw n samples of `score(x + sigma G)` for each image, from the next n draws of its certification noise.

    Every block of draws serves all images before the next one is made. The samples do not depend on how images are
    grouped, nor on threads, up to the network's float rounding in batches of another size (relative 1e-6).

    Args:
        score: what is sampled.
        noise: the images and their noise; with a shelf, at its beginning.
        sigma: noise level in [0,1] pixel units.
        n: draws an image.
        index: which of the images; None for all.
        shelf: where samples of all images are kept; those that are there are not drawn again.
        progress: called after each batch; with threads, now and then.
        threads: how many may call `score` at once.

    Returns:
        (b,n) float64, in the order of the draws.
    """
    images = list(range(len(noise)) if index is None else index)
    # On the device until they are needed: a copy after each batch would make it wait.
    found = torch.empty((len(images), n), dtype=torch.float64, device=noise.device)
    have = np.zeros(len(images), dtype=int)
    if shelf is not None:
        _take(found, have, score, noise, sigma, shelf)
    done = int(have.min(initial=n))
    if done == n:  # all is kept: no draw has to be left out, no batch to be found
        return found.cpu().numpy()
    kept, saved = have.copy(), time.monotonic()
    noise.skip(done)

    def tell(part: slice, stop: int) -> None:
        nonlocal saved
        have[part] = np.maximum(have[part], stop)
        if progress is not None:
            progress(int(have.sum()), n * len(images))
        if shelf is not None and time.monotonic() - saved > SAVE_EVERY:
            _keep(found, have, kept, shelf)
            saved = time.monotonic()

    job = _Job(score, noise, sigma, images, found, have, shelf is not None)
    job.run(done, n, noise.divisor(threads), tell)
    if shelf is not None:
        _keep(found, have, kept, shelf)
    return found.cpu().numpy()


Tell = Callable[[slice, int], None]
"""Told which images have which number of samples now."""


@dataclass(frozen=True)
class _Job:
    """Samples that are to be drawn.

    Attributes:
        found: (b,n) where they are written.
        have: (b,) how many of them each image has already, its first ones.
        ragged: whether images differ in what they have.
    """

    score: Score
    noise: CertificationNoise
    sigma: float
    images: Sequence[int]
    found: torch.Tensor
    have: np.ndarray
    ragged: bool

    def run(self, start: int, stop: int, threads: int, tell: Tell) -> None:
        """Draw samples start to stop; in one thread it tells of each batch, in several now and then."""
        if threads == 1:
            fits = Batches(self.score)
            most = fits.most(self.noise, self.sigma, MAX_PIXELS)
            for part, end in self._batches(fits, self.noise, most, range(start, stop)):
                if part is not None:
                    tell(part, end)
            return
        noises, most = self.noise.parts(threads), max(1, MAX_PIXELS // threads // self.noise.pixels)
        number = self.noise.done - start  # of sample 0 among all draws that the noise makes
        reached = [start] * threads

        def work(k: int) -> None:
            own = range(start + (k - number - start) % threads, stop, threads)
            for part, end in self._batches(Batches(self.score), noises[k], most, own):
                going_on()
                if part is None:
                    reached[k] = end

        side_by_side(work, range(threads), threads, lambda: tell(slice(None), min(reached)))
        self.noise.passed(stop - start)
        tell(slice(None), stop)

    def _batches(
        self, fits: Batches, noise: CertificationNoise, most: int, draws: range
    ) -> Iterator[tuple[slice | None, int]]:
        """Score the next draws of `noise`, which are those numbers of the samples, in batches of at most `most`.

        Yields which images have which number of samples now; None for all, after each block of draws.
        """
        images = self.images
        block = most if noise.shared else max(1, min(most, 8 * MAX_PIXELS // (noise.pixels * max(1, len(images)))))
        pieces = [draws[first : first + block] for first in range(0, len(draws), block)]
        for piece, drawn in zip(pieces, noise.blocks(images, [len(piece) for piece in pieces]), strict=True):
            together = 1 if self.ragged else max(1, most // len(piece))
            for first in range(0, len(images), together):
                part = slice(first, first + together)
                lacking = piece[bisect.bisect_left(piece, self.have[first]) :]
                if not lacking:
                    continue
                scores = fits(noise.noisy(drawn, part, len(piece) - len(lacking), self.sigma))
                places = slice(lacking.start, lacking.stop, lacking.step)
                self.found[part, places] = scores.reshape(len(lacking), -1).T.to(self.found.dtype)
                yield part, lacking[-1] + 1
            yield None, piece[-1] + 1


def _take(
    found: torch.Tensor, have: np.ndarray, score: Score, noise: CertificationNoise, sigma: float, shelf: Shelf
) -> None:
    """Fill in what is kept, where the first of it is what the metric gives now, up to rounding in another batch."""
    drawn = None
    for i in range(len(found)):
        draws = shelf.load(i)[: found.shape[1]]
        if len(draws):
            drawn = drawn or noise.first(range(len(found)))
            again = float(score(noise.noisy(drawn, slice(i, i + 1), 0, sigma)).double().cpu()[0])
            if np.isclose(again, draws[0], rtol=1e-4, atol=1e-3 * draws.std()):
                found[i, : len(draws)] = torch.from_numpy(draws).to(found)
                have[i] = len(draws)


def _keep(found: torch.Tensor, have: np.ndarray, kept: np.ndarray, shelf: Shelf) -> None:
    """Save what has come; not scores that are no numbers, an error of this run that must not be in the next one."""
    samples = found.cpu().numpy()
    for i in np.flatnonzero(have > kept).tolist():
        if np.isfinite(samples[i, : have[i]]).all():
            shelf.save(i, samples[i, : have[i]])
            kept[i] = have[i]
