"""The gallery: clean and adversarial images of a run with their difference, as far as they may be shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ...bench.datasets import Dataset, load_dataset
from ...bench.errors import RobustIQAError
from ...bench.images import to_uint8
from ...bench.plan import Plan
from ...bench.registry import registry
from ...bench.spec import parse_spec
from ...bench.store import Snapshot, Store
from ...bench.suite import Headline
from .blocks import threat_text
from .extracts import Extract
from .frames import plain

Show = Literal["licensed", "all", "none"]
CHOSEN = 3
"""Images of a metric and data set: those with the largest, the median and the smallest mean gain over the defences."""
MOST_BYTES = 4_000_000
"""Of all pictures together, as they stand in the page; what would go beyond is left out, and the page says so."""
SIDE = 256
"""Longest side that is embedded as it is; larger images are shrunk for the page."""
_LARGEST = 64_000_000
"""Pixels of an adversarial image above which it is left out."""


class Album:
    """Pictures for the page, each stored once.

    Attributes:
        files: data URIs.
        entries: what is shown, with places in `files`.
        notes: what is left out, and why.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.entries: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, uri: str) -> int:
        """The place of a picture."""
        if uri not in self._places:
            self._places[uri] = len(self.files)
            self.files.append(uri)
        return self._places[uri]

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(map(len, self.files))

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"files": self.files, "entries": self.entries, "notes": self.notes}


def album(extracts: Sequence[Extract], plan: Plan, headline: Headline, root: Path, show: Show) -> Album:
    """The pictures of a run at its headline threat.

    Args:
        extracts: of the run, with the strongest attacks.
        plan: of the run.
        headline: the threat.
        root: its folder, where `run --save-images` has left the adversarial images.
        show: "licensed": only images that their data set declares free to show (`image_licences`); "all": every data
            set's, on the word of whoever asks; "none".
    """
    found = Album()
    if show == "none":
        found.note("No images: the page was made without them.")
        return found
    store = Store(root)
    saved = store.snapshot()
    if not saved.images:
        found.note("No images: the run did not keep them. `robustiqa run --save-images` does.")
        return found
    contents = dict(plan.datasets)
    for name in dict.fromkeys(e.dataset for e in extracts):
        dataset = _opened(name, contents.get(name), show, found)
        if dataset is not None:
            here = [e for e in extracts if e.dataset == name]
            for metric in dict.fromkeys(e.metric for e in here):
                _fill(found, [e for e in here if e.metric == metric], dataset, store, saved, headline, show)
    if not found.entries:
        found.note("No image was saved at the headline threat.")
    return found


def _opened(name: str, content: str | None, show: Show, found: Album) -> Dataset | None:
    """The data set, if its images may be shown and are those of the run; a note says why not."""
    try:
        factory = registry.get("dataset", parse_spec(name).name).factory
        if show == "licensed" and not getattr(factory, "image_licences", None):
            found.note(f"Images of {name} are not shown: the data set does not declare that anybody may publish them. "
                       "`robustiqa report --images` shows them, for a page that stays with you.")  # fmt: skip
            return None
        dataset = load_dataset(name)
        if content is not None and dataset.content_hash != content:
            found.note(f"Images of {name} are not shown: those on this machine are not those of the run.")
            return None
    except RobustIQAError as error:
        found.note(f"Images of {name} are not shown: {error}.")
        return None
    return dataset


def _fill(
    found: Album,
    extracts: Sequence[Extract],
    dataset: Dataset,
    store: Store,
    saved: Snapshot,
    headline: Headline,
    show: Show,
) -> None:
    """Entries of one metric and data set: the same images for every defence."""
    places = {item.id: k for k, item in enumerate(dataset.items)}
    worst = {e.defense: e.worst for e in extracts if len(e.worst)}
    kept = {name: t[t["cell"].isin(saved.images) & t.index.isin(list(places))] for name, t in worst.items()}
    for image in _choice(list(kept.values()), dataset, places, show):
        item = dataset.items[places[image]]
        clean = dataset.load(places[image])
        for one in extracts:
            rows = kept.get(one.defense)
            if rows is None or image not in rows.index:
                continue
            row = {str(key): value for key, value in rows.loc[image].items()}
            if found.size > MOST_BYTES:
                found.note(f"More images were saved than the {MOST_BYTES // 1_000_000} MB that the page holds.")
                return
            entry = _entry(found, clean, row, store, image)
            if entry is not None:
                licence = getattr(dataset, "image_licences", {}).get(item.reference)
                found.entries.append(plain(
                    {"metric": one.metric, "dataset": one.dataset, "defense": one.defense, "image": image,
                     "licence": licence, "threat": threat_text(headline.norm, headline.eps)} | entry
                ))  # fmt: skip


def _choice(tables: Sequence[pd.DataFrame], dataset: Dataset, places: dict[str, int], show: Show) -> Iterator[str]:
    """Images that all defences have where there are any, by their mean gain: largest, median, smallest."""
    if not tables:
        return
    gains = pd.concat([t["gain"] for t in tables])
    counts = gains.groupby(level=0).count()
    mean = gains.groupby(level=0).mean()[counts == counts.max()]
    if show == "licensed":
        licences = getattr(dataset, "image_licences", {})
        mean = mean[[dataset.items[places[str(i)]].reference in licences for i in mean.index]]
    ordered = [str(i) for i in mean.sort_values(ascending=False, kind="stable").index]
    wanted = np.linspace(0, len(ordered) - 1, min(CHOSEN, len(ordered))).round().astype(int)
    yield from (ordered[i] for i in wanted)


def _entry(
    found: Album, clean: torch.Tensor, row: Mapping[str, Any], store: Store, image: str
) -> dict[str, Any] | None:
    """One entry; None, with a note, where the saved image does not go with its data set."""
    try:
        saved = store.read_images(str(row["cell"]))[image]
    except (RobustIQAError, KeyError) as error:
        found.note(f"An image is not shown: {error}.")
        return None
    if saved.shape != tuple(clean.shape) or saved.size > _LARGEST or not np.isfinite(saved).all():
        found.note(f"The adversarial image of {image} is not shown: it has not the size of the clean one.")
        return None
    adversarial = torch.from_numpy(np.ascontiguousarray(saved)).clamp(0, 1)
    delta = adversarial - clean
    largest = float(delta.abs().max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return {
        "clean_file": found.add(_uri(to_uint8(clean), lossless=True)),
        "file": found.add(_uri(to_uint8(adversarial), lossless=True)),
        "difference_file": found.add(_uri(to_uint8((0.5 + factor * delta).clamp(0, 1)), lossless=False)),
        "factor": factor, "attack": row["attack"], "before": row["clean"], "after": row["attacked"],
        "gain": row["gain"], "psnr": row["psnr"], "ssim": row["ssim"], "linf": row["linf"], "l2": row["l2"],
        "height": int(clean.shape[1]), "width": int(clean.shape[2]),
    }  # fmt: skip


def _uri(array: np.ndarray, lossless: bool) -> str:
    """An 8-bit image (H,W,3) as a data URI."""
    image = Image.fromarray(array)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, "WEBP", lossless=lossless, quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
