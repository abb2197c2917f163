"""The structure of the package: no import goes in a circle, private torch is in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = "domino_compile"
#: What only ``_compat`` may say: names of torch that begin with an underscore.
PRIVATE = re.compile(r"\btorch(\.\w+)*\._(?!_version__|check\b|_)\w+")


def sources() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    folder = ROOT / PACKAGE
    files = [*folder.rglob("*.py"), *(folder / "passes").glob("*.py")]
    return {name_of(file.relative_to(ROOT)): file for file in files}


def name_of(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member in known else str(node.module)


def circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Each circle that a walk in depth meets, as the modules on it."""
    done: set[str] = set()
    path: list[str] = []

    def walk(module: str) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in done:
            path.append(module)
            for other in sorted(edges.get(module, ())):
                yield from walk(other)
            path.pop()
            done.add(module)

    for module in sorted(edges):
        yield from walk(module)


def test_imports_have_no_circle() -> None:
    known = sources()
    assert len(known) > 150  # passes, behind a link, included
    assert f"{PACKAGE}.passes.slice" in known
    edges = {name: set(imports(name, file, known)) - {name} for name, file in known.items()}
    found = [" -> ".join(circle) for circle in circles(edges)]
    assert not found, "\n".join(found)


def room(module: str) -> str:
    """The package, or module at the top, that a module belongs to: `rules`, `tools.bench`, ..."""
    _, *parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "tools" else 1])


def test_packages_have_no_circle() -> None:
    known = sources()
    edges: dict[str, set[str]] = {}
    for name, file in known.items():
        if name != PACKAGE:  # it only hands on what others have
            others = set(imports(name, file, known)) - {PACKAGE}
            edges.setdefault(room(name), set()).update(room(other) for other in others)
    found = [" -> ".join(circle) for circle in circles({k: v - {k} for k, v in edges.items()})]
    assert len(edges) > 25 and not found, "\n".join(found)


def test_a_circle_would_be_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == [["a", "b", "c", "a"]]
    assert not list(circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}))


def code_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file without strings and comments."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[number - 1] = ""
    yield from ((number, line.split("#")[0]) for number, line in enumerate(lines, 1))


@pytest.mark.parametrize("what", ["private torch", "mock"])
def test_only_compat_uses_private_torch_and_nobody_mocks(what: str) -> None:
    found = []
    for name, file in sources().items():
        if what == "private torch" and name.startswith(f"{PACKAGE}._compat"):
            continue
        for number, line in code_lines(file):
            if PRIVATE.search(line) if what == "private torch" else "unittest" in line:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_private_names_would_be_found() -> None:
    assert PRIVATE.search("import torch._inductor.lowering")
    assert PRIVATE.search("from torch._functorch import config")
    assert PRIVATE.search("x = torch.fx._lazy_graph_module")
    assert not PRIVATE.search("torch._check(x > 1), torch.__version__")
