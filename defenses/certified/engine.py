"""The sampling engine: scores of images under Gaussian noise, in memory that does not grow with their number."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...bench.api import Progress
from ...bench.errors import BadData
from ...bench.files import write_atomically
from ...bench.objective import MAX_PIXELS
from ...bench.seeds import Streams

SAVE_EVERY = 10.0
"""Seconds of sampling that an interruption may cost where the draws are kept."""


class Kept(NamedTuple):
    """Draws of one image so far, and where its stream stands after them."""

    draws: np.ndarray
    state: torch.Tensor


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

    def load(self, i: int) -> Kept | None:
        """What is kept of image i, or None."""
        try:
            with np.load(self._paths[i], allow_pickle=False) as file:
                draws, state = file["draws"], file["state"]
                whole = hashlib.sha256(draws.tobytes() + state.tobytes()).digest() == file["digest"].tobytes()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Kept(draws, torch.from_numpy(state)) if whole and draws.ndim == 1 else None

    def save(self, i: int, kept: Kept) -> None:
        """Keep the draws of image i, atomically; raises `BadData` when the disk is full."""
        state = kept.state.numpy()
        digest = hashlib.sha256(kept.draws.tobytes() + state.tobytes()).digest()
        buffer = io.BytesIO()
        np.savez(buffer, draws=kept.draws, state=state, digest=np.frombuffer(digest, dtype=np.uint8))
        write_atomically(self._paths[i], buffer.getvalue())


def sample_scores(
    score: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    sigma: float,
    n: int,
    rng: Streams,
    shelf: Shelf | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Draw n samples of `score(x + sigma G)` for each image.

    A batch holds draws of one image, or all draws of several where n is small. Its noise comes from the streams of its
    images, so the samples do not depend on how images are grouped, up to the network's float rounding in batches of
    another size (relative 1e-6).

    Args:
        score: (b,3,H,W) noisy images, not clamped, to (b,) scores.
        x: (B,3,H,W) in [0,1].
        sigma: noise level in [0,1] pixel units.
        n: draws an image.
        rng: one stream an image, at its beginning.
        shelf: where draws are kept; those that are there are not drawn again.
        progress: called after each batch.

    Returns:
        (B,n) float64, in the order of the draws.
    """
    samples = np.empty((len(x), n))
    most = max(1, MAX_PIXELS // (x.shape[2] * x.shape[3]))
    together = max(1, most // n) if shelf is None else 1
    for first in range(0, len(x), together):
        part = slice(first, min(first + together, len(x)))
        images, streams, found = x[part], rng[part], samples[part]
        begin = 0
        if shelf is not None and (kept := shelf.load(first)) is not None and _same(score, images, sigma, streams, kept):
            begin = min(len(kept.draws), n)
            found[0, :begin] = kept.draws[:begin]
            streams.generators[0].set_state(kept.state)
        saved, sane = time.monotonic(), True
        for start in range(begin, n, most):
            stop = min(start + most, n)
            noisy = streams.normal(images, stop - start).mul_(sigma).add_(images)
            scores = score(noisy.flatten(0, 1)).double().cpu().numpy()
            found[:, start:stop] = scores.reshape(stop - start, len(images)).T
            if progress is not None:
                progress(first * n + stop * len(images), n * len(x))
            # A score that is no number is an error of this run: it must not be there in the next one.
            sane = sane and bool(np.isfinite(found[:, start:stop]).all())
            if shelf is not None and sane and (stop == n or time.monotonic() - saved > SAVE_EVERY):
                shelf.save(first, Kept(found[0, :stop].copy(), streams.generators[0].get_state()))
                saved = time.monotonic()
    return samples


def _same(
    score: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, sigma: float, streams: Streams, kept: Kept
) -> bool:
    """Whether the first kept draw is what this metric gives now, up to the rounding of another batch size."""
    noisy = streams.fork().normal(image, 1).mul_(sigma).add_(image)
    again = float(score(noisy.flatten(0, 1)).double().cpu()[0])
    return bool(len(kept.draws)) and bool(np.isclose(again, kept.draws[0], rtol=1e-4, atol=1e-3 * kept.draws.std()))
