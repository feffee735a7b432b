"""A user's file that imports what is not found: the sentence says where that lies and what to type; it then works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from robustiqa.bench.errors import BadPlugin
from robustiqa.bench.imports import import_advice, imported_files
from robustiqa.bench.metrics import load_metric
from robustiqa.bench.registry import identity_of, registry
from robustiqa.bench.trust import trust

NET = "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((1, 2, 3))\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as people publish one: a package of networks, a helper beside a script, and scripts in a folder."""
    (tmp_path / "networks" / "parts").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    files = {
        "networks/__init__.py": "",
        "networks/parts/__init__.py": "",
        "networks/parts/layers.py": "GAIN = 2.0\n",
        "networks/parts/net.py": "from .layers import GAIN\n" + NET,
        "scripts/beside_helper.py": "",
        "scripts/mine.py": "import beside_helper\n" + NET,
        "scripts/above.py": "from networks.parts.layers import GAIN\n" + NET,
        "scripts/later.py": "def make():\n    import beside_helper\n",
        "scripts/nothing.py": "import no_such_package_at_all\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("file", "advice"), [
    ("scripts/mine.py", "'beside_helper': it lies in 'scripts', so put PYTHONPATH=scripts before the command"),
    ("scripts/above.py", "'networks': it lies in '.', so put PYTHONPATH=. before the command"),
    ("scripts/nothing.py", "'no_such_package_at_all': install it, or put PYTHONPATH=FOLDER before the command if"),
    ("networks/parts/net.py", "that says `from networks.parts.net import NAME`, and put PYTHONPATH=. before the"),
])  # fmt: skip
def test_the_sentence_says_what_to_do(repository: Path, file: str, advice: str) -> None:
    for path in (file, str(repository / file)):
        with pytest.raises(BadPlugin) as found:
            registry.load_file(path)
        assert advice in str(found.value)


def test_imports_when_a_class_is_built(repository: Path) -> None:
    trust("scripts/later.py")
    with pytest.raises(BadPlugin, match=r"without arguments .*: it lies in 'scripts', so put PYTHONPATH=scripts"):
        load_metric("module[file=scripts/later.py,class=make]")


def test_other_errors_get_no_such_advice(repository: Path) -> None:
    (repository / "wrong.py").write_text("from pathlib import NoSuchName\n")
    with pytest.raises(BadPlugin, match=r"cannot import name 'NoSuchName' from 'pathlib' \(\S+\)$"):
        registry.load_file("wrong.py")
    assert import_advice(Path("wrong.py"), ValueError("relative import")) == ""


def test_the_advice_works(repository: Path) -> None:
    (repository / "own.py").write_text("from networks.parts.net import Net\n")
    for file, folder in (("scripts/mine.py", "scripts"), ("scripts/above.py", "."), ("own.py", ".")):
        code = f"from robustiqa.bench.registry import registry\nprint(registry.load_file({file!r}).Net.__name__)"
        path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "Net\n", done.stderr


def test_files_that_are_leant_on(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly and through others, absolutely and relatively, late too; neither the library nor this package."""
    monkeypatch.syspath_prepend(str(repository))
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    text = "import os, torch, robustiqa.bench\nfrom networks.parts import net\ndef f():\n    import beside_helper\n"
    (repository / "own.py").write_text(text)
    names = [f.relative_to(repository).as_posix() for f in imported_files(repository / "own.py")]
    package = ["__init__.py", "parts/__init__.py", "parts/layers.py", "parts/net.py"]
    assert names == [*(f"networks/{name}" for name in package), "scripts/beside_helper.py"]
    (repository / "networks" / "parts" / "layers.py").write_text("from . import net\n")  # a circle
    assert len(imported_files(repository / "own.py")) == 5
    installed = repository / "dist-packages"
    installed.mkdir()
    (repository / "scripts" / "beside_helper.py").rename(installed / "beside_helper.py")
    monkeypatch.syspath_prepend(str(installed))
    assert len(imported_files(repository / "own.py")) == 4
    (repository / "own.py").write_text("no Python at all")
    assert imported_files(repository / "own.py") == []


def test_what_a_plugin_imports_is_part_of_its_results_id(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository))
    (repository / "gain_of_mine.py").write_text("GAIN = 2.0\n")
    plugin = "from gain_of_mine import GAIN\nfrom robustiqa.bench import register_metric\n" + NET
    (repository / "own.py").write_text(plugin + "\n\nregister_metric('leaning')(Net)\n")
    trust("own.py")
    found = []
    for gain in ("2.0", "3.0", "2.0"):
        (repository / "gain_of_mine.py").write_text(f"GAIN = {gain}\n")
        registry.load_file("own.py")
        found.append([identity_of("metric", text) for text in ("leaning", "module[file=own.py,class=Net]")])
    assert found[0] == found[2]
    assert all(a != b for a, b in zip(found[0], found[1], strict=True))
