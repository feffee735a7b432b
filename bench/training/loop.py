"""What every training shares: one optimiser with its average, checkpoints with exact resume, a CSV log, progress lines.

Nothing here keeps a random state: a step draws from a generator seeded with (seed, stage, step), so that a resumed run
takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save
from torch import nn

from ..errors import BadData, BadParameter
from ..files import make_folder, no_os_errors, write_atomically

Identity = Mapping[str, str]
"""What a training is: settings and digests of contents, as `training_identity` returns it."""


def initialise(net: nn.Module, seed: int) -> None:
    """He initialisation of every convolution and linear layer from an own generator; biases are zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine from 1 to 0.01."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, steps)))))


class Trainable(Protocol):
    """What `run_steps` checks and keeps between two steps."""

    def check(self, step: int) -> None:
        """Raise `BadParameter` for a state that must never be kept."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        ...


def check_loss(loss: torch.Tensor, norm: torch.Tensor, step: int) -> None:
    """Raise `BadParameter` unless a loss and the norm of its gradient are finite."""
    if not torch.isfinite(loss) or not torch.isfinite(norm):
        raise BadParameter(
            f"the training loss is {float(loss.detach())}, the norm of its gradient {float(norm)}, at step {step}: "
            "lower the learning rate, and give another --out; the last checkpoint before it is kept"
        )


def check_weights(tensors: Iterable[torch.Tensor], step: int) -> None:
    """Raise `BadParameter` unless all weights are finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise BadParameter(
            f"the weights are not finite after step {step}: lower the learning rate, and give another --out; the "
            "last checkpoint before it is kept"
        )


class Learner:
    """A network with AdamW, a cosine schedule and an exponential moving average of its weights.

    Args:
        net: what is trained.
        steps: length of the schedule.
        lr: largest learning rate.
        weight_decay: decoupled decay of matrices and kernels; biases and norms have none.
        average: decay of the moving average; it starts faster, as (1 + step) / (10 + step).
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        average: float,
    ) -> None:
        self.net, self._steps, self._average = net, steps, average
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in net.parameters():
            if parameter.requires_grad:
                groups.setdefault(weight_decay if parameter.ndim > 1 else 0.0, []).append(parameter)
        self._optimiser = torch.optim.AdamW(
            [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()], lr=lr
        )
        self._lr = lr
        self.ema = {k: v.detach().clone() for k, v in net.state_dict().items()}

    def update(self, loss: torch.Tensor, step: int) -> None:
        """One optimiser step on a scalar loss; raises `BadParameter` when the loss or its gradient is not finite."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        check_loss(loss, norm, step)
        for group in self._optimiser.param_groups:
            group["lr"] = self._lr * cosine(step, self._steps)
        self._optimiser.step()
        decay = min(self._average, (1 + step) / (10 + step))
        for key, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.ema[key].lerp_(value, 1 - decay)
            else:
                self.ema[key].copy_(value)

    def check(self, step: int) -> None:
        """Raise `BadParameter` unless all weights and their average are finite: such a state is never kept."""
        check_weights((*self.net.state_dict().values(), *self.ema.values()), step)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"net": self.net.state_dict(), "optimiser": self._optimiser.state_dict(), "ema": self.ema}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.net.load_state_dict(state["net"])
        self._optimiser.load_state_dict(state["optimiser"])
        for key, value in state["ema"].items():
            self.ema[key].copy_(value)


def training_identity(config: Any, ignore: Sequence[str], **contents: str) -> Identity:
    """What a training is: the settings of a config dataclass without those that change no weight, and digests.

    Args:
        config: the settings.
        ignore: fields that are no part of it.
        contents: digests of what settings only name, such as the data.
    """
    kept = {k: json.dumps(v) for k, v in dataclasses.asdict(config).items() if k not in ignore}
    return kept | {f"content of {k}": v for k, v in contents.items()}


def run_steps(
    learner: Trainable,
    step: Callable[[int], dict[str, float]],
    *,
    steps: int,
    out: Path,
    stage: str,
    identity: Identity,
    checkpoint_every: int,
    log_every: int,
    say: Callable[[str], None] = print,
    validate: Callable[[int], dict[str, float]] | None = None,
    validate_every: int = 0,
) -> None:
    """Take the steps that are not taken yet, with a checkpoint and a log row now and then.

    Args:
        learner: holds the state that a checkpoint stores.
        step: takes one step, given its number, and returns named loss values for the log.
        steps: total number of steps.
        out: folder of the checkpoint `STAGE.pt` and the log `STAGE.csv`.
        stage: name of the stage.
        identity: what the training is; a checkpoint of another one is refused.
        checkpoint_every: steps between checkpoints; the last step always writes one.
        log_every: steps between log rows, which hold means over these steps.
        say: prints a progress line.
        validate: measures the network after a step, given how many are done; named values for the log
            `STAGE-validation.csv`. It must not change what the next step depends on.
        validate_every: steps between validations; the start and the last step always are one. 0 for none.

    Raises:
        BadParameter: the folder holds a checkpoint of other settings, or the loss is not finite.
        BadData: the checkpoint is corrupt, or the disk is full.
    """
    make_folder(out)
    checkpoint, log, validations = out / f"{stage}.pt", out / f"{stage}.csv", out / f"{stage}-validation.csv"
    first = _resume(learner, checkpoint, identity)
    _keep_rows(log, first)
    _keep_rows(validations, first)
    if first:
        say(f"{stage}: continuing after step {first} of {steps}")
    if validate and validate_every and first == 0:
        _append(validations, {"step": 0, **{k: round(v, 5) for k, v in validate(0).items()}})
    sums: dict[str, float] = {}
    count, begun = 0, time.perf_counter()
    for index in range(first, steps):
        for key, value in step(index).items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        done = index + 1
        if done % log_every == 0 or done == steps:
            row = {"step": done, **{k: round(v / count, 5) for k, v in sums.items()}}
            row["seconds_per_step"] = round((time.perf_counter() - begun) / count, 4)
            _append(log, row)
            say(f"{stage} {done}/{steps} " + " ".join(f"{k}={v}" for k, v in row.items() if k != "step"))
            sums, count, begun = {}, 0, time.perf_counter()
        if validate and validate_every and (done % validate_every == 0 or done == steps):
            paused = time.perf_counter()
            found = {k: round(v, 5) for k, v in validate(done).items()}
            _append(validations, {"step": done, **found})
            say(f"{stage} {done}/{steps} validation " + " ".join(f"{k}={v}" for k, v in found.items()))
            begun += time.perf_counter() - paused
        # Only with a complete log row, so that a resumed log has no gap.
        if done == steps or (done % checkpoint_every == 0 and count == 0):
            learner.check(done)
            write_atomically(checkpoint, _pack(learner, done, identity))


def save_weights(net: nn.Module, path: Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write a network's weights as safetensors, in plain memory order, atomically; returns the path.

    Args:
        net: whose weights and buffers are written.
        path: the file.
        about: what kind of weights they are, kept in the file's header as JSON under the key `robustiqa`.
    """
    plain = torch.contiguous_format
    state = {k: v.detach().cpu().contiguous(memory_format=plain) for k, v in net.state_dict().items()}
    # A single entry: safetensors writes several in random order, and the file's digest would change with every save.
    header = {"robustiqa": json.dumps(dict(about), sort_keys=True)} if about else None
    make_folder(path.parent)
    write_atomically(path, save(state, header))
    return path


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Run with that many CPU threads, then restore the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pack(learner: Trainable, step: int, identity: Identity) -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": step, "identity": dict(identity), "learner": learner.state()}, buffer)
    return buffer.getvalue()


def _resume(learner: Trainable, checkpoint: Path, identity: Identity) -> int:
    if not checkpoint.exists():
        return 0
    try:
        stored = torch.load(checkpoint, weights_only=True)
        before = dict(stored["identity"])
        if other := [_change(k, before.get(k), identity.get(k)) for k in sorted({*before, *identity})
                     if before.get(k) != identity.get(k)]:  # fmt: skip
            raise BadParameter(
                f"{str(checkpoint.parent)!r} holds a training with other settings ({', '.join(other)}): give another "
                "--out, or delete it"
            )
        learner.restore(stored["learner"])
        return int(stored["step"])
    except BadParameter:
        raise
    except Exception as error:
        raise BadData(f"checkpoint {str(checkpoint)!r} cannot be read ({error}): delete it to start again") from error


def _change(key: str, before: str | None, now: str | None) -> str:
    """How one part of the identity differs; digests say nothing to a reader, and are not shown."""
    return f"other {key}" if key.startswith("content of ") else f"{key} was {before}, is {now}"


def _append(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with no_os_errors(path), path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _keep_rows(path: Path, step: int) -> None:
    """Drop the log rows after the checkpoint: these steps are taken again."""
    if step == 0:
        path.unlink(missing_ok=True)
    elif path.exists():
        lines = path.read_text().splitlines()
        kept = lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
        write_atomically(path, ("\n".join(kept) + "\n").encode())
