"""Which data sets and weights a suite needs, so that they can be fetched before a machine without network runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import Absent
from ..registry import SELF, Plugin, registry
from ..spec import Value, parse_list, parse_spec
from ..suite import Suite
from .places import folder_below
from .table import Source, choose


class Need(NamedTuple):
    """A plug-in of a suite and the sources it needs; without sources, `unknown` says what cannot be known."""

    plugin: str
    sources: tuple[Source, ...]
    unknown: str = ""


def needs_of(suite: Suite, table: Mapping[str, Source]) -> list[Need]:
    """What the plug-ins of a suite need of the table, and those of which that is not known; each plug-in once.

    A plug-in's needs are what its `sources` declares when it is registered, and the sources of the table that say in
    `needed_by` that they are for it; for a data set the source of its name. Of a plug-in that is given weights of the
    user (`weights=`) only its `sources` can know what else it needs, such as a backbone; a data set that is given its
    folder (`root=`) needs nothing.

    Raises:
        UnknownName, BadParameter, BadPlugin: a metric, defence or attack of the suite that cannot be resolved.
    """
    named = [*(("dataset", text) for text in suite.datasets), *(("metric", text) for text in suite.metrics)]
    named += [("defense", text) for text in suite.defenses] + [("attack", entry.attack) for entry in suite.attacks]
    for pair in suite.pairs:
        named += [("metric", pair.metric), ("defense", pair.defense)]
    return list(dict.fromkeys(need for kind, text in named for need in _needs(kind, text, table)))


def _needs(kind: str, text: str, table: Mapping[str, Source]) -> Iterator[Need]:
    """The needs of a plug-in, and of those that it names in its parameters."""
    spec = parse_spec(text)
    if kind == "dataset":
        # Not resolved: a data set may be fetched before the version that has its loader is installed.
        source = None if spec.params.get("root") else table.get(spec.name)
        if source and source.kind == "dataset":
            yield Need(f"data set {spec.name}", (source,))
        return
    plugin, spec, parameters = registry.resolve(kind, text)
    declared, unknown = _declared(plugin, parameters, table)
    own = bool(parameters.get("weights"))
    named = [source for source in table.values() if spec.name in source.needed_by and not own]
    sources = tuple({source.name: source for source in (*declared, *named)}.values())
    if sources:
        yield Need(f"{kind} {spec.name}", sources)
    elif unknown:
        yield Need(f"{kind} {spec.name}", (), unknown)
    for parameter, of in plugin.meta.get("parts", {}).items():
        for part in parse_list(str(parameters[parameter])):
            if part not in (SELF, ""):
                yield from _needs(of, part, table)


def _declared(plugin: Plugin, parameters: Mapping[str, Value], table: Mapping[str, Source]) -> tuple[list[Source], str]:
    """What a plug-in declares that it needs, or why that is not known."""
    unknown = ""
    if plugin.sources:
        try:
            return [source for one in plugin.sources(**parameters) for source in _sources(one, table)], ""
        except Absent as error:
            besides = " besides its weights" if parameters.get("weights") else ""
            unknown = f"what it needs{besides} is not known here: {error}"
    elif plugin.kind == "metric" and plugin.packages and not parameters.get("weights"):
        unknown = (
            f"which weights it loads through {plugin.packages[0]} is not in the table: score one image with it where "
            "there is a network, and copy that machine's caches ($TORCH_HOME, $HF_HOME)"
        )
    return [], unknown


def _sources(declared: Source | str, table: Mapping[str, Source]) -> list[Source]:
    """What a plug-in declares: sources of the table, by name or because they have the same files, or one of its own."""
    if isinstance(declared, str):
        return choose(table, [declared])
    known = {place: source for source in table.values() for place in _places(source)}
    places = _places(declared)
    return [known[place] for place in sorted(places)] if places <= known.keys() else [declared]


def _places(source: Source) -> set[tuple[str, ...]]:
    """Where its files go; for one without files, its folder."""
    folder = source.below, folder_below(source)
    return {(*folder, file.into, file.save) for file in source.files} or {folder}
