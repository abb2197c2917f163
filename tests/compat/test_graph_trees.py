"""Inductor's CUDA graph trees: the state that a failed first call leaves. It needs no GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch._dynamo.utils import counters
from torch._inductor import cudagraph_trees

from domino_compile import _compat

State: Any = cudagraph_trees.ExecutionState


def manager(state: Any) -> Any:
    """A manager in the middle of a path, without the GPU that its constructor needs."""
    made: Any = object.__new__(cudagraph_trees.CUDAGraphTreeManager)
    made._current_node, made.path_state = object(), state
    made.running_forwards_with_pending_backwards = True
    return made


@pytest.mark.parametrize("state", [State.WARMUP, State.EXECUTION])
def test_only_a_first_call_is_forgotten(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    containers = cudagraph_trees.get_obj(cudagraph_trees.local, "tree_manager_containers")
    there = manager(state)
    monkeypatch.setitem(containers, 97, SimpleNamespace(tree_manager=there))
    monkeypatch.setitem(containers, 98, SimpleNamespace(tree_manager=None))
    _compat.forget_failed_warm_up()
    kept = state is not State.WARMUP
    assert (there.current_node is not None) == kept
    assert there.path_state is (state if kept else State.NONE)
    assert there.running_forwards_with_pending_backwards == kept


def test_programs_without_graphs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _compat.graph_skips()
    monkeypatch.setitem(counters["inductor"], "cudagraph_skips", before + 2)
    assert _compat.graph_skips() == before + 2
