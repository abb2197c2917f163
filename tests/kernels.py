"""What makes Inductor quicker on the CPU; nothing that it decides about graphs changes.

Called by `tests.environment.quicken_inductor`, with the torch that it was written for.

`build_together`: one run of the C++ compiler for all kernels of a graph. Inductor gives it every
kernel by itself, and nine tenths of such a run are the same whatever the kernel is (the templates
of the header that all of them include). Here the sources are put behind each other, each in a
namespace of its own, and built with the flags and by the functions of Inductor.

`write_scalar_kernels`: each kernel is generated once, and not also in vectorised variants of which
one is chosen; nor does the C++ compiler optimise it, which takes most of its time and is nothing to
kernels this small. These tests are about our rewriting of graphs. The demo, commands and whatever
else a user would start compute with vectors and at full speed, as they do for the user.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch._dynamo import guards
from torch._inductor import config, cpp_builder
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.dtype_propagation import DtypePropagationOpsHandler
from torch._inductor.exc import CppCompileError
from torch._inductor.runtime.cache_dir_utils import cache_dir

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)

_wait, _fill = AsyncCompile.wait, DtypePropagationOpsHandler.__init__
_optimisation = cpp_builder._get_optimization_cflags
_waiting: list[_Part] = []


def build_together() -> None:
    """See the module's docstring."""
    AsyncCompile.cpp_pybinding = _cpp_pybinding  # type: ignore[method-assign]
    AsyncCompile.wait = _wait_for_kernels  # type: ignore[method-assign]


def write_scalar_kernels() -> None:
    """See the module's docstring."""
    config.cpp.simdlen = 1  # the width of no instruction set
    cpp_builder._get_optimization_cflags = _no_optimisation


def _no_optimisation(*arguments: Any, **named: Any) -> tuple[list[str], list[str]]:
    """Flags of the compiler and of the linker; none of the former reorders arithmetic."""
    compiler, linker = _optimisation(*arguments, **named)
    return ["O0" if flag == "O3" else flag for flag in compiler], linker


def initialise_once() -> None:
    """A table of torch 2.13, of which there is one, is filled anew for every use of it.

    That is for every operation in every kernel, a tenth of the time that Inductor takes.
    """

    def once(self: DtypePropagationOpsHandler) -> None:
        if not vars(self):
            _fill(self)

    DtypePropagationOpsHandler.__init__ = once  # type: ignore[method-assign]


def time_no_guards() -> None:
    """Dynamo times the guards of each program that it compiles, for a line in its log.

    Before that it empties the processor's caches: a twentieth of the time that capturing takes.
    """
    guards.profile_guard_manager = _no_time


def _no_time(*_: Any) -> float:
    return 0.0


class _Part:
    """The source of one kernel with its Python binding."""

    def __init__(self, source: str) -> None:
        self.source = source
        # Kernels that do not differ in their source may do so in their speed.
        built = f"{source}\n{config.cpp.simdlen}"
        self.key = hashlib.sha256(built.encode()).hexdigest()[:32]
        self._module: ModuleType | None = None

    @property
    def note(self) -> Path:
        """The file that names the library, once this kernel was built by any process."""
        return Path(cache_dir()) / "together" / self.key

    @property
    def name(self) -> str:
        """What the library calls the kernel, whose name is "kernel" in every source."""
        return f"kernel_{self.key}"

    @property
    def text(self) -> str:
        lines = [
            f"#define kernel {self.name}",
            f"#define PyInit_kernel PyInit_{self.name}",
            f"namespace part_{self.key} {{",
            _INCLUDE.sub("", self.source),
            "}",
            "#undef kernel",
            "#undef PyInit_kernel",
        ]
        return "\n".join(lines)

    def module(self) -> ModuleType:
        """The Python module with the kernel in it, built with all that wait if need be."""
        if self._module is None and not self.note.exists():
            _build([self, *_waiting])
        self._module = self._module or self._load()
        return self._module

    def _load(self) -> ModuleType:
        if not self.note.exists():  # the compiler does not take the sources together
            found = CppPythonBindingsCodeCache.load(self.source)
            assert isinstance(found, ModuleType)
            return found
        path = self.note.read_text(encoding="utf-8")
        loader = type("_Loader", (CppPythonBindingsCodeCache,), {"entry_function": self.name})
        return loader._load_library_inner(path, self.key)  # type: ignore[attr-defined, no-any-return]


class _Sources(CppPythonBindingsCodeCache):
    """Writes sources and builds nothing yet."""

    @classmethod
    def load_async(cls, main_code: str, *_: Any, **__: Any) -> Callable[[], ModuleType]:
        part = _Part(main_code)
        _waiting.append(part)
        return part.module


class _Libraries(CppPythonBindingsCodeCache):
    """Builds a library, and loads nothing from it yet."""

    cache: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def _load_library_inner(cls, path: str, key: str) -> Any:
        return SimpleNamespace(path=path)


def _build(parts: list[_Part]) -> None:
    new = {part.key: part for part in parts if not part.note.exists()}
    includes = dict.fromkeys(
        line.strip() for part in new.values() for line in _INCLUDE.findall(part.source)
    )
    texts = [part.text for part in new.values()]
    try:
        library = _Libraries.load("\n".join(["#define PY_SSIZE_T_CLEAN", *includes, *texts]))
    except CppCompileError:
        return
    for part in new.values():
        part.note.parent.mkdir(exist_ok=True)
        draft = part.note.with_suffix(f".{os.getpid()}")
        draft.write_text(library.path, encoding="utf-8")
        draft.replace(part.note)


class _Kernel:
    """A kernel that waits for others; a call in the meantime builds it."""

    def __init__(self, get: Callable[[], Callable[..., None]]) -> None:
        self.get = get

    def __call__(self, *arguments: Any) -> None:
        self.get()(*arguments)


def _cpp_pybinding(_: AsyncCompile, argtypes: list[str], source_code: str) -> _Kernel:
    return _Kernel(_Sources.load_pybinding_async(argtypes, source_code))


def _wait_for_kernels(self: AsyncCompile, scope: dict[str, Any]) -> None:
    try:
        found = {name: k.get() for name, k in scope.items() if isinstance(k, _Kernel)}
    finally:
        _waiting.clear()
    scope.update(found)
    _wait(self, scope)
