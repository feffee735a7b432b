"""The certified networks while they are trained: with orthogonal layers or intervals, normalised, and their export."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import BadParameter
from ..intervals import propagate
from ..metrics.ibp_iqa import IbpIQA
from ..metrics.lip_iqa import LipIQA
from .loop import initialise


class Trainee(nn.Module, ABC):
    """A certified network whose pooled statistics are standardised before the head; the export folds that away.

    Args:
        n_features: number of pooled statistics.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features, eps=1e-8, affine=False, momentum=0.05)
        assert self.norm.running_var is not None
        # Statistics are small: a running variance that starts at one would hide theirs for hundreds of steps.
        self.norm.running_var.zero_()

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled statistics (B,F) of images (B,3,H,W) in [0,1]."""

    @abstractmethod
    def head(self) -> tuple[nn.Linear, nn.Linear]:
        """The two linear layers behind the statistics."""

    @abstractmethod
    def ends(self, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What `penalty` needs of images (B,3,H,W): ends of their statistics (B,F) each."""

    @abstractmethod
    def penalty(self, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        """Size of the certificate in units of ten points: what the training keeps small."""

    @abstractmethod
    def exported(self) -> nn.Module:
        """The network as it is shipped."""

    def score(self, features: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (B,) of statistics (B,F), each multiplied by `keep` once it is standardised (dropout)."""
        hidden, out = self.head()
        standard = self.norm(features)
        standard = standard if keep is None else standard * keep
        # Weights start near one, so the offset and the factor put an untrained network on the scale.
        return 50.0 + 20.0 * out(F.relu(hidden(standard))).squeeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1]."""
        return self.score(self.features(x))

    def spread(self) -> torch.Tensor:
        """(F,) standard deviation of the statistics, as the norm keeps it."""
        assert self.norm.running_var is not None
        return torch.sqrt(self.norm.running_var + self.norm.eps)

    @torch.no_grad()
    def fold_head(self, hidden: nn.Linear, out: nn.Linear) -> None:
        """Write the head into two plain layers that take raw statistics and give points."""
        own, last = self.head()
        assert self.norm.running_mean is not None
        hidden.weight.copy_(own.weight / self.spread())
        hidden.bias.copy_(own.bias - hidden.weight @ self.norm.running_mean)
        out.weight.copy_(20.0 * last.weight)
        out.bias.copy_(50.0 + 20.0 * last.bias)


class LipTrainee(Trainee):
    """`LipIQA` with convolutions that stay orthogonal (Boissin et al. 2025, arXiv 2501.07930; package orthogonium).

    Args:
        seed: seed of the weights.

    Raises:
        BadParameter: orthogonium is not installed.
    """

    def __init__(self, seed: int) -> None:
        try:
            from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d
            from orthogonium.reparametrizers import BatchedIdentity, BatchedQROrthogonalization, OrthoParams
        except ImportError as error:
            raise BadParameter("training lip-iqa needs orthogonium: pip install 'robustiqa[lipschitz]'") from error

        # Not the default, a power iteration with a state: a resumed training would differ from the whole one.
        how = OrthoParams(BatchedIdentity, BatchedQROrthogonalization)  # pyright: ignore[reportArgumentType]

        def conv(before: int, after: int, kernel: int) -> nn.Conv2d:
            return AdaptiveOrthoConv2d(
                before, after, kernel, padding=kernel // 2, padding_mode="zeros", ortho_params=how
            )

        # The package initialises from torch's global generator: seeded here, and put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            core = LipIQA(conv)
        super().__init__(core.n_features)
        self.core = core
        initialise(nn.ModuleList([core.hidden, core.out]), seed)
        for conv_layer in self._convs(core):
            assert conv_layer.bias is not None
            nn.init.zeros_(conv_layer.bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled statistics (B,F) of images (B,3,H,W) in [0,1]."""
        return self.core.features(x)

    def head(self) -> tuple[nn.Linear, nn.Linear]:
        """The two linear layers behind the statistics."""
        return self.core.hidden, self.core.out

    def ends(self, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Nothing, (B,0) each: this certificate is the same for all images."""
        nothing = x.new_empty(len(x), 0)
        return nothing, nothing

    def penalty(self, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        """Largest change of a 128-pixel image's score at l2 distance 1, in units of ten points."""
        hidden, out = self.head()
        first = hidden.weight / self.spread()
        slope = 0.5 * ((out.weight @ first).norm() + torch.linalg.matrix_norm(first, 2) * out.weight.norm())
        # As `LipIQA.lipschitz`, with layers of norm one: three scales, 16x16 positions at the coarsest.
        return 20.0 * slope * 3**0.5 / 16.0 / 10.0

    @torch.no_grad()
    def exported(self) -> LipIQA:
        """A copy with plain layers that hold the orthogonal weights."""
        plain = LipIQA()
        for old, new in zip(self._convs(self.core), self._convs(plain), strict=True):
            assert old.bias is not None
            assert new.bias is not None
            new.weight.copy_(old.weight)
            new.bias.copy_(old.bias)
        self.fold_head(plain.hidden, plain.out)
        return plain.eval()

    @staticmethod
    def _convs(net: LipIQA) -> list[nn.Conv2d]:
        return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


class IbpTrainee(Trainee):
    """`IbpIQA` on centred images, with the ends of its scores over a box of images.

    Args:
        seed: seed of the weights.
    """

    def __init__(self, seed: int) -> None:
        core = IbpIQA()
        super().__init__(core.n_features)
        self.core = core
        initialise(core, seed)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled statistics (B,F) of images (B,3,H,W) in [0,1]."""
        return self.core.trunk(x.contiguous(memory_format=torch.channels_last) - 0.5)

    def head(self) -> tuple[nn.Linear, nn.Linear]:
        """The two linear layers behind the statistics."""
        hidden, _, out = self.core.head
        assert isinstance(hidden, nn.Linear)
        assert isinstance(out, nn.Linear)
        return hidden, out

    def ends(self, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Ends of the statistics over the l_inf ball of radius eps."""
        return propagate(self.core.trunk, x - 0.5 - eps, x - 0.5 + eps, rounding=False)

    def penalty(self, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        """Mean half-width of the scores' intervals, in units of ten points."""
        mean = self.norm.running_mean
        assert mean is not None
        lo, hi = propagate(self.core.head, (lo - mean) / self.spread(), (hi - mean) / self.spread(), rounding=False)
        return 20.0 * (hi - lo).mean() / 2.0 / 10.0

    @torch.no_grad()
    def exported(self) -> IbpIQA:
        """A copy that takes images as they are: the centring becomes a part of the first bias."""
        plain = IbpIQA()
        plain.trunk.load_state_dict(self.core.trunk.state_dict())
        first = plain.layers[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        first.bias.sub_(0.5 * first.weight.sum((1, 2, 3)))
        hidden, _, out = plain.head
        assert isinstance(hidden, nn.Linear)
        assert isinstance(out, nn.Linear)
        self.fold_head(hidden, out)
        return plain.eval()
