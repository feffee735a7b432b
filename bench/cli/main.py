"""The program's entry point: commands are imported when they are called."""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any

import click

from ..errors import RobustIQAError
from ..interrupt import Terminated
from ..terminal import echo
from ..trust import TYPED
from .lazy import LazyGroup

_COMMANDS = {
    "list": ("listing:list_", "List metrics, defences, attacks, data sets and suites."),
    "score": ("single:score", "Score images."),
    "certify": ("certify:certify", "Certified bounds for images."),
    "attack": ("single:attack", "Attack images."),
    "attack-set": ("sets:attack_set", "Attack the correlation of a whole data set."),
    "transfer-matrix": ("sets:transfer_matrix", "Attack each of several metrics, score on all."),
    "plan": ("plan:plan", "Show what a suite would run."),
    "run": ("runs:run", "Run a suite, or go on with an interrupted run."),
    "reproduce": ("reproduce:reproduce", "Compute a row of a board again, and compare."),
    "status": ("status:status_", "Show how far a run is."),
    "work": ("work:work", "Compute one bundle of a run, in a job of a cluster."),
    "collect": ("results:collect", "Write the tables of a run again, or unite several runs."),
    "export": ("export:export", "Write a table of a board as CSV, Markdown, LaTeX or JSON."),
    "report": ("report:report", "Write the page of a run: boards, plots and pictures in one file."),
    "rescore": ("results:rescore", "Score the images of a run again, without attacking."),
    "tune": ("tune:tune", "Choose the strength of defences on development images."),
    "compare": ("compare:compare", "Accuracy of a run's defences with intervals, paired against a baseline."),
    "check": ("check:check", "Reliability checks: can robustness figures of a defence be believed?"),
    "submit": ("submit:submit", "Write, verify and pack a submission to the board: a defence or a break."),
    "gallery": ("gallery:gallery", "Write pages of all attacks and defences, with pictures."),
    "soundness": ("soundness:soundness", "Check certificates against known truths and attacks."),
    "train": ("train:train", "Train a metric, a denoiser or an attack."),
    "data": ("data:data", "List, fetch and verify data sets and weights."),
}


class _Program(LazyGroup):
    """All commands; an error that the user can act on is a sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = list(args)  # for the record of a run: a test's `sys.argv` is another program's
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RobustIQAError as error:
            for sentence in (error, *getattr(error, "__notes__", ())):
                echo(f"robustiqa: {sentence}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt as error:
            goes_on = ctx.invoked_subcommand in ("run", "train", "tune", "data", "submit")
            promise = "; the same command goes on where a run, a training or a download stopped" if goes_on else ""
            echo(f"robustiqa: interrupted{promise}", err=True)
            ctx.exit(143 if isinstance(error, Terminated) else 130)


@click.group(cls=_Program, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("robustiqa"), prog_name="robustiqa")
def cli() -> None:
    """RobustIQA: how badly can no-reference image-quality metrics be gamed, and what helps?"""


def _show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning as a sentence, without the line of code that it comes from."""
    echo(f"robustiqa: warning: {message}", err=True)


def main() -> None:
    """Console entry point: exit code 0 when all went well, 1 when something failed, 2 for a call it cannot read."""
    warnings.showwarning = _show
    cli(prog_name="robustiqa")
