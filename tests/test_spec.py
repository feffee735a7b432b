"""Plug-in strings and the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from robustiqa.bench.errors import BadParameter, BadPlugin, UnknownName
from robustiqa.bench.registry import KINDS, Registry, registry
from robustiqa.bench.spec import Spec, bind, parse_list, parse_spec


def test_parse_and_write() -> None:
    spec = parse_spec("median-smoothing[ n = 1000, sigma=0.12 ]")
    assert spec == Spec("median-smoothing", {"n": 1000, "sigma": 0.12})
    assert str(spec) == "median-smoothing[n=1000,sigma=0.12]"
    assert parse_spec(str(spec)) == spec
    assert parse_spec("a[x=none,y=true,z=0.5,w=word]").params == {"x": None, "y": True, "z": 0.5, "w": "word"}
    # A folder called 007 is not the folder 7.
    assert parse_spec("folder[root=007]").params == {"root": "007"}


def test_a_value_may_hold_plugin_strings() -> None:
    text = "chain[steps=jpeg[quality=50,surrogate=identity];gaussian-blur,m=2]"
    spec = parse_spec(text)
    assert spec.params == {"steps": "jpeg[quality=50,surrogate=identity];gaussian-blur", "m": 2}
    assert parse_spec(str(spec)) == spec
    assert parse_list(str(spec.params["steps"])) == ["jpeg[quality=50,surrogate=identity]", "gaussian-blur"]
    assert parse_list("a[b=c[d=1;e]]; f") == ["a[b=c[d=1;e]]", "f"]


@pytest.mark.parametrize("text", ["", "Name", "a[", "a[b]", "a[b=1,b=2]", "a b", "a[1=2]", "a[=2]"])
def test_malformed_strings_are_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        parse_spec(text)


def test_bind_fills_defaults_and_casts() -> None:
    def factory(sigma: float = 0.5, n: int = 3, name: str = "x", flag: bool = False, size: float | None = None) -> None:
        pass

    assert bind(parse_spec("f[sigma=1e-3,n=007]"), factory)["sigma"] == 1e-3
    assert bind(parse_spec("f[n=007,name=007]"), factory) | {"sigma": 0} == {
        "sigma": 0, "n": 7, "name": "007", "flag": False, "size": None,
    }  # fmt: skip
    assert bind(parse_spec("f[sigma=1]"), factory) == {"sigma": 1.0, "n": 3, "name": "x", "flag": False, "size": None}
    for bad in ("f[n=1.5]", "f[sigma=word]", "f[flag=1]", "f[sigma=inf]", "f[n=true]", "f[sigma=nan]"):
        with pytest.raises(BadParameter, match="must be"):
            bind(parse_spec(bad), factory)
    with pytest.raises(UnknownName, match="did you mean 'sigma'"):
        bind(parse_spec("f[sigm=1]"), factory)


def test_required_parameter_is_named() -> None:
    with pytest.raises(BadParameter, match=r"folder\[root="):
        registry.resolve("dataset", "folder")


def test_equal_plugins_have_equal_identity() -> None:
    plugin, first, _ = registry.resolve("defense", "median-smoothing")
    second = parse_spec("median-smoothing[sigma=0.12]")
    assert plugin.identity(first) == plugin.identity(second)
    assert plugin.identity(first) != plugin.identity(parse_spec("median-smoothing[sigma=0.13]"))


@pytest.mark.parametrize(("kind", "typo", "right"), [
    ("metric", "tiny-iqq", "tiny-iqa"),
    ("defense", "median-smothing", "median-smoothing"),
    ("attack", "eotpgd", "eot-pgd"),
    ("dataset", "photo", "photos"),
])  # fmt: skip
def test_unknown_names_suggest_the_nearest(kind: str, typo: str, right: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{right}'"):
        registry.get(kind, typo)


def test_every_builtin_loads_and_has_a_summary() -> None:
    for kind in KINDS:
        for name in registry.names(kind):
            plugin = registry.get(kind, name)
            assert plugin.name == name
            # Other tests register plug-ins of their own in this process.
            assert plugin.summary or plugin.origin != "built-in", f"{kind} {name} has no docstring"


def test_a_broken_file_says_what_broke(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('no luck')")
    with pytest.raises(BadPlugin, match="ValueError: no luck"):
        registry.load_file(tmp_path / "broken.py")
    with pytest.raises(BadPlugin, match="does not exist"):
        registry.load_file(tmp_path / "absent.py")


def test_a_file_that_ends_the_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(BadPlugin, match=r"ends the program \(exit code 2\).*__main__"):
        registry.load_file(tmp_path / "script.py")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    source = "from robustiqa.bench import register_metric\nregister_metric('tiny-iqa')(lambda: None)\n"
    (tmp_path / "clash.py").write_text(source)
    with pytest.raises(BadPlugin, match="already registered"):
        registry.load_file(tmp_path / "clash.py")


def test_a_broken_entry_point_still_lists() -> None:
    mine = Registry({})
    mine._broken["metric"]["other"] = "metric 'other' is broken: gone"
    assert "other" in mine.names("metric")
    with pytest.raises(BadPlugin, match="gone"):
        mine.get("metric", "other")
