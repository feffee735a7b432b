"""The one registry of plug-ins: built in (imported when first asked for), by entry point, or from `--plugin FILE`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from .builtin import BUILTIN
from .errors import BadParameter, BadPlugin, UnknownName
from .files import no_file
from .imports import file_digest, import_advice, program_digest
from .session import SESSION, file_of, name_of, session_digest
from .spec import Spec, Value, bind, parse_list, parse_spec
from .trust import check_trusted, trust

if TYPE_CHECKING:
    from .sources import Source


@dataclass(frozen=True)
class Strength:
    """The parameter of a defence by which it is made stronger, and the values from weak to strong that a tuning tries.

    Attributes:
        parameter: its name.
        presets: values, weakest first.
    """

    parameter: str
    presets: tuple[Value, ...]

    def specs(self, text: str) -> list[str]:
        """The plug-in string at each preset; one that gives the parameter itself is left as it is."""
        spec = parse_spec(text)
        if self.parameter in spec.params:
            return [str(spec)]
        return [str(Spec(spec.name, {**spec.params, self.parameter: value})) for value in self.presets]


KINDS = ("metric", "dataset", "defense", "denoiser", "attack")
SELF = "self"
"""Stands for the metric under test, or the defence, where a list of plug-ins is expected."""
PACKAGE = __name__.rsplit(".", 2)[0]
F = TypeVar("F", bound=Callable[..., Any])
Sources = Callable[..., "Iterable[Source | str]"]
"""Called with a plug-in's parameters: the sources it needs, its own or by their name in the table of bench/sources."""


@dataclass(frozen=True)
class Plugin:
    """A registered plug-in.

    Attributes:
        kind: metric, dataset, defense, denoiser or attack.
        name: kebab-case name by which users call it.
        factory: what builds it; for a defence its first argument is the metric, for a denoiser the noise level.
        version: raised whenever its behaviour changes, so that stored results are not mixed.
        origin: "built-in", "entry point DIST", "file PATH", or "this session" for what stands in no file.
        meta: what the decorator declared (direction, range, ...).
        file_digest: digest of the plug-in file that registered it, if one did.
        packages: optional distributions whose version decides what it does.
        preset: parameters that its name gives: {"name": "topiq_nr"} for `pyiqa:topiq_nr`.
        sources: files that it needs and does not bring along, for `robustiqa data fetch --suite`.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    version: int
    origin: str
    meta: dict[str, Any] = field(default_factory=dict)
    file_digest: str = ""
    packages: Sequence[str] = ()
    preset: Mapping[str, Value] = field(default_factory=dict)
    sources: Sources | None = None

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n", 1)[0]

    @property
    def source_hash(self) -> str:
        """Digest of the file that defines the plug-in; `code_digest` covers what it leans on.

        Of what stands in no file it is that of the code, and of all that this leans on (`bench/session.py`).
        """
        try:
            file = None if self.origin == SESSION else inspect.getsourcefile(inspect.unwrap(self.factory))
        except TypeError:  # neither a class nor a function, but an object that can be called
            file = None
        own = file_digest(Path(file)) if file else session_digest(self.factory, f"{self.kind} {self.name!r}")
        return own + self.file_digest

    def bind(self, spec: Spec) -> dict[str, Value]:
        """All parameters, given or default, checked against the factory's signature."""
        if twice := self.preset.keys() & spec.params.keys():
            raise BadParameter(f"{spec.name!r} already gives {min(twice)!r}: leave it out of the brackets")
        given = Spec(spec.name, {**self.preset, **spec.params})
        return bind(given, self.factory, skip=1 if self.kind in ("defense", "denoiser") else 0)

    def identity(self, spec: Spec) -> str:
        """`name-vN[all parameters]`: equal for two strings that mean the same plug-in."""
        return str(Spec(f"{self.name}-v{self.version}", self.bind(spec)))


@functools.cache
def code_digest() -> str:
    """Digest of the code and weights of this package that decide a score: part of every result's identity.

    A plug-in leans on the attack loop, the sampling engine and much else, so its own file does not identify it. The
    price: results are not reused over a change of code that would not have mattered.
    """
    return _digest_of(
        ("attacks", "bench", "defenses"),
        {
            "checks",
            "cli",
            "executors",
            "sources",
            "submission",
            "training",
            "suites",
            "__pycache__",
            "provenance.py",
            "hardware.py",
            "estimate.py",
            "standin.py",
            "display.py",
            "status.py",
            "interrupt.py",
            "terminal.py",
        },
    )


@functools.cache
def checks_digest() -> str:
    """Digest of the code of the reliability checks: part of the identity of their results only."""
    return _digest_of(("bench/checks",), {"__pycache__"})


def _digest_of(folders: Sequence[str], unrelated: set[str]) -> str:
    """Digest of code and weights in folders of this package, but for those below folders of certain names."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            parts = path.relative_to(root).parts
            if path.suffix in (".py", ".safetensors") and not unrelated.intersection(parts):
                digest.update("/".join(parts).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class Registry:
    """Plug-ins by kind and name; a broken one is remembered with its error and never stops the others."""

    def __init__(self, builtin: dict[str, dict[str, str]]) -> None:
        self._lazy = {kind: dict(builtin.get(kind, {})) for kind in KINDS}
        self._loaded: dict[str, dict[str, Plugin]] = {kind: {} for kind in KINDS}
        self._broken: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self._files: dict[Path, tuple[str, ModuleType]] = {}
        self._origin, self._digest = "", ""
        self._scanned = False

    def register(
        self,
        kind: str,
        name: str,
        version: int,
        packages: Sequence[str] = (),
        sources: Sources | None = None,
        **meta: Any,
    ) -> Callable[[F], F]:
        """Decorator that registers a class or factory; a name taken by another origin is refused.

        What a file or a session registers again takes the place of what it registered before, so that files can be
        loaded and cells be run again; in a session only if it is called the same, since there two cells meet.
        """

        def decorate(factory: F) -> F:
            # Who registers decides, not who wrote the class: a file may register a class of ours under its own name.
            origin, digest = self._registering(sys._getframe(1).f_globals)
            old = self._loaded[kind].get(name)
            taken = old is not None and old.origin != origin
            if taken or (name in self._lazy[kind] and origin != "built-in"):
                where = old.origin if old else "built-in"
                raise BadPlugin(f"{kind} {name!r} is already registered ({where}): give yours another name")
            if old is not None and origin == SESSION and name_of(old.factory) != name_of(factory):
                raise BadPlugin(
                    f"{kind} {name!r} is already registered in this session, by {name_of(old.factory)}: give "
                    f"{name_of(factory)} another name, or call unregister({kind!r}, {name!r}) first"
                )
            self._loaded[kind][name] = Plugin(kind, name, factory, version, origin, meta, digest, packages,
                                              sources=sources)  # fmt: skip
            return factory

        return decorate

    def _registering(self, names: Mapping[str, Any]) -> tuple[str, str]:
        """Where a plug-in comes from that code with these globals registers, and the digest of the file, if any."""
        if str(names.get("__name__", "")).startswith(PACKAGE + "."):
            return "built-in", self._digest
        if self._origin:
            return self._origin, self._digest
        file = file_of(names)
        return (f"file {file}", program_digest(file)) if file else (SESSION, "")

    def unregister(self, kind: str, name: str) -> None:
        """Take a plug-in of a file or of this session away; raises `UnknownName` where there is none."""
        mine = [n for n, p in self._loaded[kind].items() if p.origin == SESSION or p.origin.startswith("file ")]
        if name not in mine:
            raise UnknownName(f"{kind} of yours", name, mine)
        del self._loaded[kind][name]

    def names(self, kind: str) -> list[str]:
        """Every known name of a kind, also those not imported yet and the broken ones."""
        self._scan()
        return sorted({*self._lazy[kind], *self._loaded[kind], *self._broken[kind]})

    def get(self, kind: str, name: str) -> Plugin:
        """The plug-in of that name, imported if need be; `UnknownName` or `BadPlugin` otherwise.

        `family:member` is the plug-in `family` with its parameter `name` set to `member`.
        """
        self._scan()
        family, colon, member = name.partition(":")
        if colon and name not in self.names(kind):
            plugin = self.get(kind, family)
            if "name" in inspect.signature(plugin.factory).parameters:
                return replace(plugin, preset={"name": member})
        if name not in self._loaded[kind] and name in self._lazy[kind]:
            importlib.import_module(self._lazy[kind][name])
        if name in self._loaded[kind]:
            return self._loaded[kind][name]
        if name in self._broken[kind]:
            raise BadPlugin(self._broken[kind][name])
        raise UnknownName(kind, name, self.names(kind), "if it is in a file of yours, add --plugin FILE.py")

    def resolve(self, kind: str, text: str) -> tuple[Plugin, Spec, dict[str, Value]]:
        """Plug-in, parsed string and full parameters of a plug-in string."""
        spec = parse_spec(text)
        plugin = self.get(kind, spec.name)
        return plugin, spec, plugin.bind(spec)

    def load_file(self, path: str | Path) -> ModuleType:
        """Run a plug-in file that the user named; its decorators register what it defines. Returns the module."""
        path = Path(path)
        if not path.is_file():
            raise BadPlugin(f"plug-in file {str(path)!r} {no_file(path)}; a plug-in is a Python file")
        trust(path)
        name = f"robustiqa_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise BadPlugin(f"{str(path)!r} is not a Python file: a plug-in ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with self._from(f"file {path.resolve()}", path):
                spec.loader.exec_module(module)
        except BadPlugin:
            raise
        except SystemExit as error:
            sys.modules.pop(name, None)
            raise BadPlugin(
                f"plug-in file {str(path)!r} ends the program (exit code {error.code}) where it should only define "
                "things: put what it does as a script behind `if __name__ == '__main__':`"
            ) from error
        except Exception as error:
            sys.modules.pop(name, None)
            advice = import_advice(path, error)
            raise BadPlugin(
                f"plug-in file {str(path)!r} failed with {type(error).__name__}: {error}{advice}"
            ) from error
        self._files.pop(path.resolve(), None)  # workers load files in the order in which their names were taken
        self._files[path.resolve()] = file_digest(path), module
        return module

    def module_of(self, path: str | Path) -> ModuleType:
        """The module of a trusted file, which runs once as long as it does not change; raises `BadPlugin`."""
        check_trusted(path, "a Python file")
        held = self._files.get(Path(path).resolve())
        return held[1] if held and Path(path).is_file() and held[0] == file_digest(Path(path)) else self.load_file(path)

    def files(self) -> list[tuple[Path, str]]:
        """The plug-in files that were run, and the digest of each as it was then."""
        return [(path, digest) for path, (digest, _) in self._files.items()]

    @contextlib.contextmanager
    def _from(self, origin: str, path: Path | None = None) -> Iterator[None]:
        before = self._origin, self._digest
        self._origin, self._digest = origin, program_digest(path) if path else ""
        try:
            yield
        finally:
            self._origin, self._digest = before

    def _scan(self) -> None:
        """Import the plug-ins that installed packages declare as entry points, once."""
        if self._scanned:
            return
        self._scanned = True
        for kind in KINDS:
            for point in importlib.metadata.entry_points(group=f"robustiqa.{kind}s"):
                origin = f"entry point {point.dist.name if point.dist else point.value}"
                try:
                    with self._from(origin):
                        point.load()
                except Exception as error:
                    self._broken[kind][point.name] = f"{kind} {point.name!r} of {origin} is broken: {error}"


def resolve_target(target: str) -> Any:
    """The object that `module:attribute` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


registry = Registry({k: {n: f"{PACKAGE}.{m}" for n, m in v.items()} for k, v in BUILTIN.items()})


def load_plugin(path: str | Path) -> ModuleType:
    """Run a plug-in file, as `--plugin` does: its decorators register what it defines. Returns its module.

    The file is known to the workers of every executor, which a class written in a notebook is not.

    Raises:
        BadPlugin: there is no such file, or running it failed.
    """
    return registry.load_file(path)


def unregister(kind: str, name: str) -> None:
    """Take away a plug-in of a file or of this session, so that its name is free.

    Args:
        kind: "metric", "dataset", "defense", "denoiser" or "attack".
        name: its name.

    Raises:
        UnknownName: there is no such kind, or no such plug-in of yours.
    """
    if kind not in KINDS:
        raise UnknownName("kind of plug-in", kind, KINDS)
    registry.unregister(kind, name)


def identity_of(kind: str, text: str) -> str:
    """Plug-in with version, parameters, declarations, and the hashes of its source and of what it is given: files, and
    other plug-ins."""
    plugin, spec, parameters = registry.resolve(kind, text)
    parts = plugin.meta.get("parts", {})
    files = [
        program_digest(Path(value))
        for name, value in parameters.items()
        if name not in parts and isinstance(value, str) and _is_file(value)
    ]
    for of, part in _named_by(plugin, parameters):
        inner = identity_of(of, part)
        files.append(inner)
        if of == "dataset":
            files.append(_content(part, inner))
    packages = [f"{name} {version_of(name)}" for name in plugin.packages]
    return f"{plugin.identity(spec)}@{plugin.source_hash}{sorted(plugin.meta.items())}{files}{packages}"


def _named_by(plugin: Plugin, parameters: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    """Kind and string of every plug-in that stands in the parameters of one."""
    denoiser = parameters.get("denoiser")
    # What `auto` stands for comes with the package, which `code_digest` covers.
    if isinstance(denoiser, str) and denoiser != "auto" and not _is_file(denoiser):
        yield "denoiser", denoiser
    for parameter, of in plugin.meta.get("parts", {}).items():
        yield from ((of, part) for part in parse_list(str(parameters[parameter])) if part != SELF)


def leaned_on(kind: str, text: str) -> Iterator[Plugin]:
    """The plug-in of a string, and all that stand in its parameters."""
    plugin, _, parameters = registry.resolve(kind, text)
    yield plugin
    for of, part in _named_by(plugin, parameters):
        yield from leaned_on(of, part)


def _is_file(value: str) -> bool:
    """Whether a parameter's value is the path of a file; one too long for the system is none."""
    try:
        return bool(value) and Path(value).is_file()
    except (OSError, ValueError):
        return False


@functools.cache
def _content(dataset: str, identity: str) -> str:
    """Digest of the images of a data set that a plug-in leans on, taken once a process: its name does not tell."""
    return resolve_target(f"{PACKAGE}.bench.datasets:load_dataset")(dataset).content_hash


@functools.cache  # reading the metadata of all packages takes longer than planning a small suite
def version_of(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions() -> list[str]:
    """Versions of the packages that decide scores."""
    return [str(version_of(name)) for name in ("torch", "kornia", "pillow", "scipy")]


def register_metric(
    name: str,
    *,
    lower_better: bool = False,
    score_range: tuple[float, float] | None = None,
    bounded: bool = False,
    min_size: int = 1,
    differentiable: bool = True,
    version: int = 1,
    packages: Sequence[str] = (),
    sources: Sources | None = None,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[F], F]:
    """Register an `nn.Module` class or factory mapping (B,3,H,W) in [0,1] to (B,) as a metric.

    A factory that knows its direction and range only when the metric is built returns a `Metric` that declares them. If
    it has a parameter `name`, users can write `family:member` for `family[name=member]`.

    Args:
        name: kebab-case name.
        lower_better: whether a smaller score means a better image.
        score_range: nominal scale, used as a unit where no data set gives an empirical one.
        bounded: promise that no input whatever leaves `score_range`; only then may a certificate end at its end.
        min_size: smallest height and width that the metric accepts, in pixels.
        differentiable: whether the score has a gradient that is not zero everywhere; attacks that need one skip others.
        version: raise it when scores change.
        packages: optional distributions that the scores depend on; their versions become part of every result's id.
        sources: called with the metric's parameters, names the files it needs (`bench.sources.Source`, or names of the
            built-in table), so that `robustiqa data fetch --suite` can get them beforehand.
        parts: see `register_defense`.
    """
    meta = {
        "lower_better": lower_better, "score_range": score_range, "bounded": bounded, "min_size": min_size,
        "differentiable": differentiable,
    }  # fmt: skip
    inner = {"parts": dict(parts)} if parts else {}
    return registry.register("metric", name, version, packages, sources, **meta, **inner)


def register_dataset(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Register a `Dataset` class or factory."""
    return registry.register("dataset", name, version)


def register_defense(
    name: str,
    *,
    version: int = 1,
    packages: Sequence[str] = (),
    strength: Strength | None = None,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[F], F]:
    """Register a `DefendedMetric` class, or a factory `(metric, **parameters) -> DefendedMetric`.

    Args:
        name: kebab-case name.
        version: raise it when scores change.
        packages: see `register_metric`.
        strength: what `robustiqa tune` varies.
        parts: parameters whose values are plug-in strings with `;` between them, and their kind: {"steps": "defense"}.
            What they name becomes part of every result's id.
    """
    return registry.register("defense", name, version, packages, strength=strength, parts=dict(parts))


def register_denoiser(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Register a factory `(sigma) -> nn.Module` of a denoiser for the smoothed defences, sigma in [0,1] pixel units.

    The module maps noisy images (B,3,H,W), not clamped, to the same shape. An attribute `trained_sigma` of it, if not
    None, is the only noise level that it is made for.
    """
    return registry.register("denoiser", name, version)


def register_attack(
    name: str,
    *,
    version: int = 1,
    packages: Sequence[str] = (),
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[F], F]:
    """Register an `Attack` class or a factory `(**parameters) -> Attack`.

    For `packages` see `register_metric`, for `parts` `register_defense`.
    """
    return registry.register("attack", name, version, packages, parts=dict(parts))
