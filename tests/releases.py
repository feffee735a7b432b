"""Small releases of the field's data sets, in the official layouts, and what a loader must find in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.io
from PIL import Image
from robustiqa.bench.datasets import split

CSIQ_FILES = {
    "noise": "AWGN/{}.AWGN.{}.png",
    "jpeg": "JPEG/{}.JPEG.{}.png",
    "jpeg 2000": "jpeg2000/{}.jpeg2000.{}.png",
    "fnoise": "fnoise/{}.fnoise.{}.png",
    "blur": "blur/{}.BLUR.{}.png",
    "contrast": "contrast/{}.contrast.{}.png",
}
LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}


class Made(NamedTuple):
    """A release on disk: image -> (truth, reference, std), and its table."""

    rows: Mapping[str, tuple[float | None, str, float]]
    table: Path


def photo(path: Path, width: int = 24, height: int = 20) -> None:
    """A random photograph that depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def references(name: str) -> list[str]:
    """The references of a set whose split is pinned."""
    lines = (Path(split.__file__).parent / "splits" / f"{name}.csv").read_text().split("\n")[1:]
    return [line.split(",")[0] for line in lines if line]


def kadid10k(root: Path) -> Made:
    rows, lines = {}, ["dist_img,ref_img,dmos,var"]
    for reference in references("kadid10k"):
        photo(root / "images" / f"{reference}.png")
        for level, mos in ((1, "4.57"), (5, "1.1")):
            image = f"{reference}_01_{level:02d}.png"
            photo(root / "images" / image)
            lines.append(f"{image},{reference}.png,{mos},0.{level}96")
            rows[image] = float(mos), reference, float(f"0.{level}96")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")
    return Made(rows, root / "dmos.csv")


def tid2013(root: Path) -> Made:
    rows, lines, spreads = {}, [], []
    for reference in references("tid2013"):
        for level, mos in ((1, "5.51429"), (5, "0.45946")):
            image = f"{'I' if level == 1 else 'i'}{reference[1:]}_24_{level}.bmp"
            # On disk in another case, as for distortions 11 and 13.
            photo(root / "distorted_images" / (image.upper() if level == 1 else image))
            lines.append(f"{mos} {image}")
            spreads.append(f"0.1{level}")
            rows[image] = float(mos), reference, float(f"0.1{level}")
    (root / "mos_with_names.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    (root / "mos_std.txt").write_bytes("\r\n".join([*spreads, ""]).encode())
    return Made(rows, root / "mos_with_names.txt")


def csiq(root: Path) -> Made:
    rows, cells = {}, []
    for k, reference in enumerate(references("csiq")):
        for kind, file in CSIQ_FILES.items() if k < 2 else [("noise", CSIQ_FILES["noise"])]:
            for level, dmos in ((1, 0.0625), (5, 0.75)):
                photo(root / "dst_imgs" / file.format(reference, level))
                image = file.format(reference, level).replace("AWGN/", "awgn/").replace("JPEG/", "jpeg/")
                cells.append([int(reference) if reference == "1600" else reference, 1, kind, level, 0.01 * level, dmos])
                rows[image] = -dmos, reference, 0.01 * level
    header = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    table = pd.DataFrame([[None] * 6] * 3 + [header] + cells)
    table.insert(0, "a", None)
    table.to_csv(root / "csiq.DMOS.csv", header=False, index=False)
    return Made(rows, root / "csiq.DMOS.csv")


def live(root: Path, file: str = "dmos_realigned.mat", shift: float = 0.0) -> Made:
    root = root / "databaserelease2"
    names, count = references("live"), sum(LIVE_COUNTS.values())
    images = [f"{folder}/img{k + 1}.bmp" for folder, n in LIVE_COUNTS.items() for k in range(n)]
    contents = [names[i % len(names)] for i in range(count)]
    copies = np.arange(count) % 5 == 3
    dmos = np.where(copies, 0, np.linspace(20, 80, count)) + shift
    for folder in LIVE_COUNTS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    # A tenth of the images, in all folders and of all references; the others are absent.
    for image in images[::10]:
        photo(root / image)
    std = np.linspace(1, 9, count)
    values = {"dmos_new": dmos[None], "dmos_std": std[None]} if file != "dmos.mat" else {"dmos": dmos[None]}
    scipy.io.savemat(root / file, {**values, "orgs": copies[None].astype(float)})
    cells = np.empty((1, count), dtype=object)
    cells[0] = [np.array([f"{name}.bmp"]) for name in contents]
    scipy.io.savemat(root / "refnames_all.mat", {"refnames_all": cells})
    spread = std if file != "dmos.mat" else np.full(count, np.nan)
    rows = {images[i]: (-float(dmos[i]), contents[i], float(spread[i])) for i in range(0, count, 10) if not copies[i]}
    return Made(rows, root / file)


def pipal(root: Path) -> Made:
    rows = {}
    for k in range(12):
        lines = []
        for j in range(4):
            image, elo = f"A{k:04d}_0{j}_00.bmp", 1200.25 + 100 * j + k
            photo(root / f"Distortion_{j + 1}" / image)
            lines.append(f"{image},{elo}")
            rows[image] = elo, f"A{k:04d}", float("nan")
        (root / "Train_Label").mkdir(exist_ok=True)
        (root / "Train_Label" / f"A{k:04d}.txt").write_text("\n".join(lines) + "\n")
    return Made(rows, root / "Train_Label" / "A0000.txt")


def agiqa3k(root: Path) -> Made:
    rows, lines = {}, ["name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"]
    for k in range(12):
        for model, quality in (("AttnGAN_normal", 0.195283431), ("xl2.2_normal", 3.628001993)):
            image = f"{model}_{k:03d}.jpg"
            photo(root / "images" / image)
            prompt = f'"Cat {k}, anime style",,,anime style' if model.startswith("xl") else f"cat {k},,,"
            lines.append(f"{image},{prompt},{quality},0.25,4.5,0.5")
            rows[image] = quality, f"cat {k}", 0.25
    (root / "data.csv").write_text("\n".join(lines) + "\n")
    return Made(rows, root / "data.csv")


def flive(root: Path) -> Made:
    names = [f"voc_emotic_ava/AVA__{k}.jpg" for k in range(16)]
    names += [f"blur_dataset/out_of_focus{k}.JPG" for k in range(8)]
    names += [f"voc_emotic_ava/{copy}__2008_{k}.jpg" for k in range(8) for copy in ("JPEGImages", "VOC2012")]
    rows, lines = {}, ["name,mos"]
    for k, image in enumerate(names):
        photo(root / "database" / image)
        lines.append(f"{image},{2.5 * k}")
        rows[image] = 2.5 * k, image.replace("JPEGImages__", "").replace("VOC2012__", ""), float("nan")
    (root / "labels_image.csv").write_text("\n".join(lines) + "\n")
    return Made(rows, root / "labels_image.csv")


def nips2017(root: Path) -> Made:
    ids = [f"{k:016x}" for k in range(24)]
    for name in ids:
        photo(root / "images" / f"{name}.png")
    lines = [f"{name},https://example.org/a,0,0,1,1,305,779,b,c,d,e" for name in ids]
    header = "ImageId,URL,x1,y1,x2,y2,TrueLabel,TargetClass,OriginalLandingURL,License,Author,AuthorProfileURL"
    (root / "images.csv").write_text("\n".join([header, *lines]) + "\n")
    return Made({f"{name}.png": (None, f"{name}.png", float("nan")) for name in ids}, root / "images.csv")


RELEASES: dict[str, Callable[[Path], Made]] = {
    "kadid10k": kadid10k,
    "tid2013": tid2013,
    "csiq": csiq,
    "live": live,
    "pipal": pipal,
    "agiqa3k": agiqa3k,
    "flive": flive,
    "nips2017": nips2017,
}
