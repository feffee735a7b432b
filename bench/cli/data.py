"""`robustiqa data`: list, fetch and verify data sets and weights."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadParameter, RobustIQAError
from ..sources.places import Roots, find_roots, folder_of, human, is_here
from ..sources.table import Source, choose, load_table
from ..suite import load_suite
from .options import with_plugins

if TYPE_CHECKING:
    from ..sources.fetch import Fetched

Command = Callable[..., Any]


@click.group("data")
def data() -> None:
    """List, fetch and verify the data sets and weights that are not part of the package."""


def _common(command: Command) -> Command:
    """Options of all three commands."""
    for decorate in (
        click.option("--sources", "own", multiple=True, metavar="FILE", help="YAML file with sources of your own."),
        click.option("--to", default="", metavar="DIR", help="Folder of the data, instead of $ROBUSTIQA_DATA."),
    ):
        command = decorate(command)
    return command


@data.command("list")
@_common
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(own: tuple[str, ...], to: str, as_json: bool) -> None:
    """List every source: size, licence, citation, whether it is here, and how it is got."""
    rows = [_row(source, to) for source in load_table(own).values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.secho(row["name"], bold=True, nl=False)
        size = f", {human(row['bytes'])}" if row["how"] != "by hand" else ""
        click.echo(f"  {row['title']} ({row['kind']}{size})")
        click.echo(f"  here      {row['here'] or 'no'}")
        click.echo(f"  how       {_HOW[row['how']]}{'; ' + row['by_hand'] if row['by_hand'] else ''}")
        for key in ("page", "licence", "citation", "verified"):
            click.echo(f"  {key:<9} {row[key]}")
    click.echo("\nrobustiqa data fetch NAME gets what can be fetched; robustiqa data verify NAME checks what is here")


_HOW = {
    "pinned": "data fetch; every byte is checked against a pinned SHA-256",
    "pinned by first digits": "data fetch; the first digits of the SHA-256 are checked: finds damage, not an attacker",
    "not pinned": "data fetch; not pinned: nobody has verified a SHA-256 yet, that of the first download is recorded",
    "by hand": "by hand",
}


def _row(source: Source, to: str) -> dict[str, Any]:
    """A source as `data list --json` shows it."""
    here = None
    if to or os.environ.get("ROBUSTIQA_DATA") or source.below != "data":
        roots = find_roots(to or os.environ.get("ROBUSTIQA_DATA", "."))
        here = str(folder_of(source, roots)) if is_here(source, roots) else None
    plain = source.model_dump(mode="json", exclude={"below", "folder"})
    return {**plain, "how": source.how, "bytes": source.bytes, "here": here}


@data.command("fetch")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--suite", help="Fetch what this suite needs: its name, or a YAML file.")
@click.option("--yes", is_flag=True, help="Acknowledge the licences that are printed.")
@click.option("--keep-archives", is_flag=True, help="Keep archives after unpacking, in DIR/archives.")
@_common
@with_plugins
def fetch_(
    names: tuple[str, ...], suite: str | None, yes: bool, keep_archives: bool, own: tuple[str, ...], to: str
) -> None:
    """Download data sets and weights, or go on with an interrupted download.

    What was put in its place by hand is not touched, and looked through: are all files there? `data verify` also reads
    them. The exit code is 1 if anything that is named, or that the suite is known to need, is not there or not whole.
    """
    from ..sources.fetch import fetch

    table = load_table(own)
    wanted, unknown = choose(table, names), []
    if suite:
        more, unknown = _of_suite(suite, table)
        wanted = list({source.name: source for source in (*wanted, *more)}.values())
        if not (wanted or unknown):
            click.echo(f"suite {suite!r} needs nothing that has to be fetched")
            return
    elif not names:
        raise BadParameter("nothing to fetch is named: give names of `robustiqa data list`, or --suite")
    roots = find_roots(to)
    lacking: list[str] = []
    _acknowledge([source for source in wanted if source.files and not is_here(source, roots)], yes)
    for source in wanted:
        try:
            if source.files:
                got = fetch(source, roots, keep_archives, lambda text: click.echo(text, err=True))
                lacking += _say(source, got) if got.ours else _by_hand(source, roots)
            elif is_here(source, roots):
                lacking += _by_hand(source, roots)
            else:
                lacking.append(f"{source.name} has to be got by hand: {source.by_hand} ({source.page})")
        except RobustIQAError as error:
            lacking.append(f"{source.name}: {error}")
    for text in (*lacking, *unknown):
        click.echo(f"robustiqa: {text}", err=True)
    sys.exit(1 if lacking else 0)


def _by_hand(source: Source, roots: Roots) -> list[str]:
    """Say what is there of a source that was not fetched, and give what is lacking of it."""
    from ..sources.verify import look

    click.echo(f"{source.name}: {str(folder_of(source, roots))!r} is there, put by hand: looked through; "
               f"robustiqa data verify {source.name} also reads it")  # fmt: skip
    lacking = []
    for finding in look(source, roots):
        text = f"{source.name}: {finding.status}: {finding.text}"
        if finding.lacking:
            lacking.append(text)
        else:
            click.echo(text)
    return lacking


def _say(source: Source, got: Fetched) -> list[str]:
    """Say what a fetch did, and the digests of what was not pinned; nothing is lacking."""
    where = repr(str(got.folder))
    click.echo(f"{source.name}: {'complete in' if not got.before else 'was fetched before, is in'} {where}")
    for download in got.downloads:
        if not download.pinned:
            click.echo(f"{source.name}: {download.save} was not wholly pinned; it has the SHA-256 {download.sha256}")
    return []


def _of_suite(text: str, table: dict[str, Source]) -> tuple[list[Source], list[str]]:
    """The sources that a suite needs, and what cannot be known of its metrics; says which need comes from where."""
    from ..sources.needs import needs_of

    needs = needs_of(load_suite(text), table)
    for need in needs:
        if need.sources:
            click.echo(f"{need.plugin} needs {', '.join(source.name for source in need.sources)}")
    unknown = [f"{need.plugin}: {need.unknown}" for need in needs if need.unknown]
    return [source for need in needs for source in need.sources], unknown


def _acknowledge(sources: list[Source], yes: bool) -> None:
    """Print what is about to be fetched, on which terms, and have them acknowledged."""
    if not sources:
        return
    for source in sources:
        click.echo(f"{source.name}: {source.title}, {human(source.bytes)}, {source.how}")
        click.echo(f"  licence   {source.licence}")
        click.echo(f"  citation  {source.citation}")
        click.echo(f"  page      {source.page}")
    if yes:
        return
    if not _on_terminal():
        raise BadParameter("the licences above have to be acknowledged: read them, then add --yes")
    if not click.confirm("Do you accept these licences, and will you cite these works?"):
        raise BadParameter("nothing was fetched: the licences were not accepted")


def _on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


@data.command("verify")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_common
@with_plugins
def verify_(names: tuple[str, ...], own: tuple[str, ...], to: str) -> None:
    """Check what is on this machine: digests, and whether a data set is complete.

    \b
    ok          it is as it should be
    absent      nothing is there
    incomplete  something is there, and files of it are missing
    wrong       a file is there that is not the right one, or cannot be read
    unknown     there is nothing to check it against

    The exit code is 0 if, of every source, something is ok and nothing absent, incomplete or wrong.
    """
    from ..sources.verify import verify

    roots, good = find_roots(to), True
    for source in choose(load_table(own), names):
        findings = verify(source, roots, _bar)
        for finding in findings:
            click.echo(f"{source.name}: {finding.status}: {finding.text}")
        statuses = {finding.status for finding in findings}
        if statuses == {"unknown"}:
            click.echo(f"{source.name}: nothing of it could be checked, which counts as not in order")
        good &= "ok" in statuses and not any(finding.lacking for finding in findings)
    sys.exit(0 if good else 1)


def _bar(indices: Iterator[int], count: int) -> Iterator[int]:
    """A progress bar on a terminal."""
    from tqdm import tqdm

    return iter(tqdm(indices, total=count, unit="image", disable=None))
