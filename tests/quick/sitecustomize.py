"""Python imports this first of all where its folder is on PYTHONPATH: torch is quicker then.

It is there for the processes that tests start, which are commands as a user starts them; their
kernels are those that the user's are. See `tests/kernels.py`.
"""

import gc
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

gc.set_threshold(20_000)  # as `tests.environment` sets it later; a program is imported before that

_LAST = "torch._inductor.compile_fx"  # with it everything is imported that is to be changed


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, _path: Any, _target: Any = None) -> ModuleSpec | None:
        if name != _LAST:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            from tests.environment import quicken_inductor

            quicken_inductor(scalar=False)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
