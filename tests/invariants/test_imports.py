"""Data flows one way: a package imports only from those above it in docs/architecture.md."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "lumi"


def documented_order():
    table = (
        (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf8").split("## Packages")[1].split("\n## ")[0]
    )
    return re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)


def packages():
    return {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {
        "__init__"
    }


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_every_package_is_documented():
    assert set(documented_order()) == packages()


def test_imports_point_one_way():
    order = documented_order()
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "lumi" and len(parts) > 1 and order.index(parts[1]) > order.index(here):
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_every_public_name_is_there():
    """Some are found only when they are asked for."""
    for package in packages():
        module = importlib.import_module(f"lumi.{package}")
        names = getattr(module, "__all__", ())
        assert [name for name in names if not hasattr(module, name)] == [], package
        assert not hasattr(module, "no_such_name")


def test_the_overview_needs_no_heavy_library():
    code = "import sys; from lumi.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'tyro'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_nothing_that_can_run_code_is_loaded():
    forbidden = re.compile(
        r"pickle\.load|torch\.load\(|trust_remote_code\s*=\s*True|allow_pickle\s*=\s*True|(?<![\w.])eval\(|(?<![\w.])exec\("
    )
    found = [str(path) for path in SOURCE.rglob("*.py") if forbidden.search(path.read_text(encoding="utf8"))]
    assert not found
