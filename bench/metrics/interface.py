"""What a network of somebody else's expects and returns, so that it becomes a metric: options of several adapters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from ..api import Metric
from ..errors import BadImage, BadParameter, BadScore
from ..images import MIN_SIDE
from ..spec import parse_list

Pixels = Literal["unit", "signed", "bytes"]
Colours = Literal["rgb", "bgr"]
Fit = Literal["stretch", "crop", "shorter"]
Output = Literal["score", "probabilities", "logits"]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Statistics of ImageNet's pixels in [0,1], RGB, that most pretrained networks were trained with."""
_SUM_TOLERANCE = 1e-3
_NOISE = 1e-4
"""Largest difference, relative to the score, that rounding explains between two calls with the same image."""


@dataclass(frozen=True)
class Interface:
    """How images become the network's input, and its output a score.

    The steps come in this order: `size`, `pixels`, `colours`, `mean` and `std`, the network, `output`. All of them are
    differentiable, and none mixes the images of a batch.

    Attributes:
        lower_better: whether a smaller score means a better image.
        low, high: nominal range of the score; both or neither.
        bounded: promise that no input whatever leaves the range.
        min_size: smallest side of an image in pixels.
        pixels: what the network takes: "unit" [0,1], "signed" [-1,1], "bytes" [0,255].
        colours: order of its channels, "rgb" or "bgr".
        mean, std: what is subtracted and divided by afterwards, in these units and in this order of channels: one
            number or three with `;` between them, or "imagenet"; both or neither.
        size: the only input that the network takes, in pixels: 224, or height x width as 384x512; empty takes any.
        fit: how an image gets that size: "stretch" (antialiased bilinear resizing, both sides on their own), "crop"
            (from the middle; nothing outside is seen), "shorter" (resizing so that it just covers, then the crop).
        output: "score" is one number an image; "probabilities" of the ratings 1 to K are replaced by their expectation
            (NIMA); "logits" likewise after a softmax.
        single: give the network one image at a time, for one that was traced with a batch of 1.
    """

    lower_better: bool = False
    low: float | None = None
    high: float | None = None
    bounded: bool = False
    min_size: int = MIN_SIDE
    pixels: Pixels = "unit"
    colours: Colours = "rgb"
    mean: str = ""
    std: str = ""
    size: str = ""
    fit: Fit = "stretch"
    output: Output = "score"
    single: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("pixels", Pixels), ("colours", Colours), ("fit", Fit), ("output", Output)):
            if getattr(self, name) not in get_args(kind):
                raise BadParameter(f"{name}={getattr(self, name)}: expected {', '.join(get_args(kind))}")
        if (self.low is None) != (self.high is None):
            raise BadParameter("low and high: give both ends of the range or neither")
        if self.min_size < 1:
            raise BadParameter(f"min_size={self.min_size}: expected at least 1 pixel")
        if "imagenet" in (self.mean, self.std) and (self.pixels, self.colours) != ("unit", "rgb"):
            raise BadParameter("imagenet's mean and std are of RGB pixels in [0,1]: write the numbers out for others")
        self.side  # noqa: B018
        if not all(value > 0 for value in self.channels("std")):
            raise BadParameter(f"std={self.std}: expected numbers above 0")
        self.channels("mean")
        # Mostly half a normalisation that was forgotten, and scores are then wrong without a word.
        if self.mean and not self.std:
            raise BadParameter(f"mean={self.mean} without std: give both; std=1 divides by nothing")
        if self.std and not self.mean:
            raise BadParameter(f"std={self.std} without mean: give both; mean=0 subtracts nothing")

    def channels(self, name: str) -> tuple[float, ...]:
        """The numbers of `mean` or `std`: three, one for all channels, or none."""
        text = str(getattr(self, name))
        if text == "imagenet":
            return IMAGENET[name]
        try:
            values = tuple(float(part) for part in parse_list(text)) if text else ()
        except ValueError:
            values = (float("nan"),)
        if len(values) not in (0, 1, 3) or not all(abs(value) < float("inf") for value in values):
            raise BadParameter(f"{name}={text}: expected one number, or three as 0.5;0.5;0.5, or imagenet")
        return values

    @property
    def side(self) -> tuple[int, int] | None:
        """Height and width of `size`."""
        parts = self.size.split("x") if self.size else []
        if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
            raise BadParameter(f"size={self.size}: expected pixels as 224, or height x width as 384x512")
        return (int(parts[0]), int(parts[-1])) if parts else None

    def metric(self, net: nn.Module, name: str) -> Metric:
        """The network behind this interface; `name` is for messages. One without a gradient says `black_box = True`."""
        ends = None if self.low is None or self.high is None else (self.low, self.high)
        return Metric(
            Foreign(net, self, name),
            name,
            lower_better=self.lower_better,
            score_range=ends,
            bounded=self.bounded,
            min_size=self.min_size,
            differentiable=not getattr(net, "black_box", False),
        )


class Foreign(nn.Module):
    """A network with the interface of a metric."""

    def __init__(self, net: nn.Module, interface: Interface, name: str) -> None:
        super().__init__()
        self.net, self.interface, self.name = net, interface, name
        self._repeats = False  # whether one image was seen to get one score
        for part in ("mean", "std"):
            values = torch.tensor(interface.channels(part) or (float(part == "std"),))
            self.register_buffer(part, values[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1]; raises `BadImage` or `BadScore` for what the network refuses."""
        scores = self._scored(x)
        if not self._repeats:
            self._check_repeats(x, scores.detach())
        return scores

    def _scored(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.prepared(x)
        # Some networks normalise their input in place: not the caller's image, and not beside that of another one.
        shared = self.interface.single or seen.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        parts = seen.split(1) if self.interface.single else (seen,)
        try:
            found = [self.net(part.clone() if shared else part) for part in parts]
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise BadImage(
                f"metric {self.name!r} fails on an input of shape {tuple(seen.shape)} ({_reason(error)}): if it takes "
                "one size, give size=; if it takes one image at a time, give single=true"
            ) from error
        for part in found:
            if not isinstance(part, torch.Tensor):
                raise BadScore(f"metric {self.name!r} returned a {type(part).__name__}: expected one tensor; wrap the "
                               "network so that it returns the score alone")  # fmt: skip
        y = torch.cat([part.reshape(1) if part.ndim == 0 else part for part in found])
        if y.is_complex():
            raise BadScore(f"metric {self.name!r} returned complex numbers: expected real ones")
        # Whole numbers would round whatever is computed from them in their own type.
        return self.reduced(y if y.is_floating_point() else y.to(x.dtype), len(x))

    def _check_repeats(self, x: torch.Tensor, scores: torch.Tensor) -> None:
        """Raise `BadScore` where one image gets two scores: no result of such a network could be repeated.

        Once, at the first call. Networks in training mode are the usual case: `eval` does not reach what was traced or
        exported that way, nor a dropout that the code itself switches on.
        """
        with torch.no_grad():
            again = self._scored(x)
        moved = (scores - again).abs() > _NOISE * scores.abs().clamp(min=0.01)
        if bool(moved.any()):
            first, second = (float(part[moved][0]) for part in (scores, again))
            raise BadScore(f"metric {self.name!r} gives two scores for one image ({first:.6g} and {second:.6g}): it "
                           "draws random numbers, so that no result could be repeated; call net.eval() before it is "
                           "traced or exported, and switch no dropout on")  # fmt: skip
        self._repeats = True

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        """The network's input of images (B,3,H,W) in [0,1]."""
        if self.interface.side:
            x = fitted(x, self.interface.side, self.interface.fit)
        if self.interface.pixels != "unit":
            x = x * 255 if self.interface.pixels == "bytes" else x * 2 - 1
        if self.interface.colours == "bgr":
            x = x.flip(1)
        # Not where nothing is asked for: (x - 0) / 1 would cost a pass over the image.
        if self.interface.mean or self.interface.std:
            x = (x - self.get_buffer("mean").to(x)) / self.get_buffer("std").to(x)
        return x

    def reduced(self, y: torch.Tensor, count: int) -> torch.Tensor:
        """Scores (count,) of what the network returned."""
        kind = self.interface.output
        shape, rest = tuple(y.shape), y.numel() // max(count, 1)
        if len(y) != count or (kind == "score") != (rest == 1):
            wanted = "one score each" if kind == "score" else "(images, ratings)"
            raise BadScore(
                f"metric {self.name!r} returned {shape} for {count} images: expected {wanted}; for ratings give "
                "output=probabilities or logits, for a network of one image at a time single=true"
            )
        if kind == "score":
            return y.reshape(count)
        p = y.reshape(count, rest)
        if kind == "logits":
            p = p.softmax(1)
        elif not bool(((p.detach().sum(1) - 1).abs() < _SUM_TOLERANCE).all() and (p.detach() >= 0).all()):
            raise BadScore(f"metric {self.name!r} returned numbers that are no probabilities (sum "
                           f"{float(p.detach()[0].sum()):.3g}): is it output=logits?")  # fmt: skip
        return p @ torch.arange(1, rest + 1, dtype=p.dtype, device=p.device)


def fitted(x: torch.Tensor, side: tuple[int, int], fit: Fit) -> torch.Tensor:
    """Images (B,3,H,W) at height and width `side`; raises `BadImage` where a crop is larger than the image."""
    height, width = side
    if fit != "crop":
        to = side
        if fit == "shorter":
            scale = max(height / x.shape[2], width / x.shape[3])
            to = (max(height, round(x.shape[2] * scale)), max(width, round(x.shape[3] * scale)))
        if to != tuple(x.shape[2:]):
            x = F.interpolate(x, to, mode="bilinear", align_corners=False, antialias=True)
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    if top < 0 or left < 0:
        raise BadImage(f"an image of {x.shape[3]}x{x.shape[2]} px is smaller than the crop of {width}x{height}: use "
                       "larger images or fit=shorter")  # fmt: skip
    return x[:, :, top : top + height, left : left + width]


def with_interface(load: Callable[..., nn.Module]) -> Callable[..., Metric]:
    """A metric's factory from what loads its network: it also takes the fields of `Interface` as parameters.

    Args:
        load: its parameters come first; its docstring stands for the factory's.
    """
    own = inspect.signature(load)
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Interface)
        if f.default is not MISSING
    ]

    @functools.wraps(load)
    def factory(**given: object) -> Metric:
        named = {option.name: given.pop(option.name) for option in options if option.name in given}
        interface = Interface(**named)  # type: ignore[arg-type]
        net = load(**given)
        return interface.metric(net, load.__name__)

    signature = own.replace(parameters=[*own.parameters.values(), *options], return_annotation=Metric)
    setattr(factory, "__signature__", signature)  # noqa: B010
    return factory


def _reason(error: Exception) -> str:
    """The line that says what is wrong: TorchScript's errors end with it, after a traceback of their own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line] or lines or [type(error).__name__]
    return telling[-1][:200]
