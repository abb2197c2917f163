"""Each use of torch's private parts does what we rely on, on whatever torch is installed."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from functorch.compile import (
    aot_module_simplified,
    make_boxed_func,
    min_cut_rematerialization_partition,
)
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

from domino_compile import _compat
from domino_compile._compat import groups
from domino_compile.backend import domino
from domino_compile.ops.materialise import materialise
from domino_compile.ops.products import addmm_beside, mm_beside, run_addmm, run_mm
from domino_compile.ops.random_slice import random_slice
from tests.compat import gpu_code
from tests.emitted.harness import fake_world

aten = torch.ops.aten
pytestmark = pytest.mark.xdist_group("compat")


@pytest.fixture
def mode() -> FakeTensorMode:
    return FakeTensorMode()


def small_graph(mode: FakeTensorMode) -> fx.Graph:
    """``relu(x).view(6)`` of a fake ``(2, 3)`` input."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    relu = graph.call_function(aten.relu.default, (x,))
    view = graph.call_function(aten.view.default, (relu, [6]))
    graph.output((view,))
    with mode:
        x.meta["val"] = torch.empty(2, 3)
        relu.meta["val"] = aten.relu(x.meta["val"])
        view.meta["val"] = relu.meta["val"].view(6)
    return graph


def captured(model: Any, *args: Any) -> tuple[fx.GraphModule, list[Any]]:
    """What Dynamo hands to a backend."""
    seen: list[Any] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        seen.extend((gm, inputs))
        return gm.forward

    torch._dynamo.reset()
    torch.compile(model, backend=backend)(*args)
    return seen[0], seen[1]


def test_every_function_has_a_test() -> None:
    functions = {
        name
        for name, value in vars(_compat).items()
        if inspect.isfunction(value)
        and value.__module__ == _compat.__name__
        and not name.startswith("_")
    }
    source = Path(__file__).read_text()
    assert {name for name in functions if f"_compat.{name}(" not in source} == set()


def test_fake_mode_of(mode: FakeTensorMode) -> None:
    assert _compat.fake_mode_of(small_graph(mode)) is mode
    assert isinstance(_compat.fake_mode_of(fx.Graph()), FakeTensorMode)


def test_can_view(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(4, 6)
    assert _compat.can_view(mode, x, [24])
    assert not _compat.can_view(mode, x.t(), [24])


def test_on_real_tensors(mode: FakeTensorMode) -> None:
    with mode:
        with _compat.on_real_tensors():
            assert torch.ones(3).sum().item() == 3
        assert isinstance(torch.ones(3), FakeTensor)


def test_backward_at_once() -> None:
    from torch._functorch import config

    before = config.force_non_lazy_backward_lowering
    with _compat.backward_at_once():
        assert config.force_non_lazy_backward_lowering
    assert config.force_non_lazy_backward_lowering == before


def test_start_fake_group() -> None:
    _compat.start_fake_group(4)
    try:
        assert torch.distributed.get_world_size() == 4
        x = torch.ones(3)
        torch.distributed.all_reduce(x)
        assert torch.equal(x, torch.ones(3))
        world = torch.distributed.group.WORLD
        assert world is not None and _compat.group_named(world.group_name) is world
    finally:
        torch.distributed.destroy_process_group()


def test_register_random_slice_lowering() -> None:
    from torch._inductor import lowering

    _compat.register_random_slice_lowering(random_slice)
    _compat.register_random_slice_lowering(random_slice)  # twice is once
    assert random_slice in lowering.lowerings


def test_register_materialise_lowering() -> None:
    from torch._inductor import lowering

    _compat.register_materialise_lowering(materialise)
    _compat.register_materialise_lowering(materialise)  # twice is once
    assert materialise in lowering.lowerings


def test_realize_to_strides() -> None:
    import torch._inductor.graph

    module = gpu_code.captured(lambda x: (x.t() + 1).sum(0), (64, 32))
    (total,) = module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    _compat.realize_to_strides(total)
    assert "inductor_realize_to_strides" in inspect.getsource(torch._inductor.graph)
    assert len(gpu_code.kernels_of(module)) == 1


def test_operations_of_sizes() -> None:
    """They compute what torch's expressions of a dynamic size say."""
    made: list[Any] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        n = next(x for x in inputs if isinstance(x, torch.SymInt))
        made.extend((n // 4, n % 4, -n % 4))
        return gm.forward

    torch._dynamo.reset()
    torch.compile(torch.sin, backend=backend, dynamic=True)(torch.ones(7))
    operations = _compat.size_operations()
    for size, expected in zip(made, (7 // 4, 7 % 4, -7 % 4), strict=True):
        expression = size.node.expr
        left, right = (
            part.subs(part.free_symbols.pop(), 7) if part.free_symbols else part
            for part in expression.args
        )
        assert operations[expression.func](int(left), int(right)) == expected


def test_draws_of_checkpointed_regions_are_told() -> None:
    targets: list[Any] = []

    def run(gm: fx.GraphModule, _inputs: Any) -> Any:
        targets.extend(node.target for node in gm.graph.nodes)
        return make_boxed_func(gm.forward)

    def block(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5).sin()

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        partition = min_cut_rematerialization_partition
        return aot_module_simplified(gm, inputs, fw_compiler=run, partition_fn=partition)

    torch._dynamo.reset()
    program = torch.compile(lambda x: checkpoint(block, x, use_reentrant=False), backend=backend)
    program(torch.ones(4, requires_grad=True)).sum().backward()
    assert sum(_compat.draws_and_saves(target) for target in targets) == 1


def test_strictly_bounded_sizes_of_a_static_graph(mode: FakeTensorMode) -> None:
    assert _compat.strictly_bounded_sizes(small_graph(mode)) == set()


def test_keep_order_behind_waits_is_done_once() -> None:
    from torch._inductor.scheduler import SchedulerNode

    _compat.keep_order_behind_waits()
    repaired = SchedulerNode.recompute_size_and_body
    _compat.keep_order_behind_waits()
    assert SchedulerNode.recompute_size_and_body is repaired


def test_is_contiguous(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(4, 6)
    assert _compat.is_contiguous(x)
    assert not _compat.is_contiguous(x.t())


def test_is_plain() -> None:
    assert _compat.is_plain(aten.mm.default)
    assert not _compat.is_plain(aten.view.default)
    assert not _compat.is_plain(aten.relu_.default)
    assert not _compat.is_plain(aten.var_mean.correction)
    assert not _compat.is_plain(len)


def test_new_fake(mode: FakeTensorMode) -> None:
    made = _compat.new_fake(mode, [2, 3], torch.bfloat16, torch.device("cpu"))
    with mode:
        same = torch.empty(2, 3, dtype=torch.bfloat16)
        assert (made + same).shape == (2, 3)
    assert (made.device, made.dtype, made.stride()) == (same.device, same.dtype, same.stride())
    assert made.untyped_storage()._cdata != same.untyped_storage()._cdata


def test_group_size_and_shared_store() -> None:
    fake_world()
    name = dist.group.WORLD.group_name  # type: ignore[union-attr]
    assert _compat.group_size(name) == 2
    assert _compat.group_size("no such group") == 1
    assert _compat.rank_in(name) == 0
    assert _compat.shared_store(name) is None  # one process stands for the group
    assert _compat.rank_and_world() == (0, 2)
    assert _compat.memberships() == [(name, 0, [0, 1], False)]
    assert _compat.group_timeout_s(name) > 0  # of the stand-in, if it has one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_misdeclared_attention(mode: FakeTensorMode, dtype: torch.dtype) -> None:
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    graph = fx.Graph()
    node = graph.call_function(attention, ())
    with mode:
        node.meta["val"] = attention(*[torch.empty(1, 1, 4, 8, dtype=dtype)] * 3)
    declared, real = node.meta["val"][1], attention(*[torch.rand(1, 1, 4, 8, dtype=dtype)] * 3)[1]
    assert _compat.is_misdeclared_attention(node) == (declared.dtype != real.dtype)


def test_base_store() -> None:
    store = dist.HashStore()
    prefixed = dist.PrefixStore("a", dist.PrefixStore("b", store))
    base = _compat.base_store(prefixed)
    assert type(base) is dist.HashStore
    prefixed.set("key", "value")
    assert base.get("b/a/key") == store.get("b/a/key")
    assert _compat.base_store(store) is store


def test_preserve_order(mode: FakeTensorMode) -> None:
    graph = small_graph(mode)
    relu, view = (n for n in graph.nodes if n.op == "call_function")
    with graph.inserting_before(view):
        other = graph.call_function(aten.neg.default, (relu.args[0],))
    other.meta["val"] = relu.meta["val"]
    module = fx.GraphModule({}, graph)
    _compat.preserve_order(module.graph, {other: [relu]})
    wrapped = next(n for n in module.graph.nodes if n.name == other.name)
    assert relu in wrapped.all_input_nodes


def test_inductor_config() -> None:
    assert _compat.inductor_config().reorder_for_peak_memory in (True, False)
    assert _compat.inductor_has_option("reorder_for_compute_comm_overlap")
    assert _compat.inductor_has_option("triton.cudagraphs")
    assert not _compat.inductor_has_option("aten_distributed_optimizations.no_such_option")
    assert _compat.inductor_option_types()["max_autotune"] is bool


def test_mode_options() -> None:
    assert _compat.mode_options("reduce-overhead")["triton.cudagraphs"] is True


def test_compile_with_inductor_calls_the_graph_passes() -> None:
    seen: list[str] = []
    ours = _compat.graph_pass(lambda _: seen.append("ours"), "a", before=[_Before(seen)])
    gm, inputs = captured(lambda x: torch.relu(x) * 2, torch.ones(3))
    program = _compat.compile_with_inductor(gm, inputs, {"joint_custom_post_pass": ours})
    assert program(torch.ones(3))[0].tolist() == [2, 2, 2]
    assert seen == ["before", "ours"]


class _Before:
    """A pass that the user had put into the hook."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def __call__(self, graph: fx.Graph) -> None:
        self.seen.append("before")

    def uuid(self) -> str:
        return "before"


def test_graph_pass_identity() -> None:
    alone, other = (_compat.graph_pass(lambda _: None, name) for name in ("a", "b"))
    after = _compat.graph_pass(lambda _: None, "a", before=_Before([]))
    nameless = _compat.graph_pass(lambda _: None, "a", before=lambda _: None)
    assert alone.uuid() != other.uuid()
    assert alone.uuid() != after.uuid()
    assert nameless.uuid() is None  # no key: the caches are left out


def test_inductor_decompositions() -> None:
    assert aten.native_layer_norm.default in _compat.inductor_decompositions()


def test_inputs_of_a_dynamo_graph() -> None:
    layer = torch.nn.Linear(2, 2)
    gm, inputs = captured(layer, torch.ones(3, 2))
    placeholders = gm.graph.find_nodes(op="placeholder")
    names = [_compat.input_name(node) for node in placeholders]
    parameters = _compat.parameter_inputs(gm, inputs)
    assert len(parameters) == 2
    assert all("_parameters" in names[i] for i in parameters)
    assert any(name.startswith("L['args']") or name == "L['input']" for name in names)


def test_input_position() -> None:
    positions: list[int | None] = []

    def joint(graph: fx.Graph) -> None:
        for node in graph.find_nodes(op="placeholder"):
            positions.append(_compat.input_position(node))

    gm, inputs = captured(lambda x, y: (x * y).sum(), torch.ones(3), torch.ones(3))
    hook = _compat.graph_pass(joint, "positions")
    _compat.compile_with_inductor(gm, inputs, {"joint_custom_post_pass": hook})
    assert positions == [0, 1]


def test_products_are_lowered_to_calls_of_ours() -> None:
    from torch._inductor import lowering
    from torch._inductor.select_algorithm import extern_kernels

    for _ in range(2):
        _compat.register_product_lowerings(mm_beside, addmm_beside, run_mm, run_addmm)
    assert mm_beside in lowering.lowerings and addmm_beside in lowering.lowerings
    assert extern_kernels.domino_mm is run_mm
    assert extern_kernels.domino_addmm is run_addmm


def test_products_are_inductors_where_it_tunes_them_itself() -> None:
    assert not _compat.products_are_inductors({})
    assert _compat.products_are_inductors({"max_autotune": True})
    assert _compat.products_are_inductors({"cpp_wrapper": True})
    with _compat.inductor_config().patch({"max_autotune_gemm": True}):
        assert _compat.products_are_inductors({})
        assert not _compat.products_are_inductors({"max_autotune_gemm": False})


def test_emit_artifact() -> None:
    _compat.emit_artifact("a test", "text")  # nobody listens: nothing happens
    assert _compat.tracing_is_on() in (True, False)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert Path(_compat.cache_folder()) == tmp_path
    assert not _compat.caches_enabled()  # the tests switch them off


def test_forget_names(mode: FakeTensorMode) -> None:
    graph = small_graph(mode)
    relu = next(n for n in graph.nodes if n.target is aten.relu.default)
    name = relu.name
    relu.replace_all_uses_with(relu.args[0])
    graph.erase_node(relu)
    _compat.forget_names(graph)
    again = graph.create_node("call_function", aten.relu.default, (), name=name)
    assert again.name == name


def test_profiler_runs() -> None:
    assert not _compat.profiler_runs()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert _compat.profiler_runs()
    assert not _compat.profiler_runs()


def test_copy_of_compiles_on_its_own() -> None:
    graphs: list[torch.fx.GraphModule] = []
    weight = torch.nn.Parameter(torch.randn(3, 3))

    def backend(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        copied = _compat.copy_of(gm)
        graphs.extend((gm, copied))
        _compat.compile_with_inductor(gm, inputs, {})
        return _compat.compile_with_inductor(copied, inputs, {})

    x = torch.randn(2, 3)
    program = torch.compile(lambda x: (x @ weight).tanh(), backend=backend)
    torch.testing.assert_close(program(x), (x @ weight).tanh())
    first, second = ([_compat.input_name(n) for n in g.graph.nodes] for g in graphs)
    assert first == second and not set(graphs[0].graph.nodes) & set(graphs[1].graph.nodes)


def in_place(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.mul_(2)
    return x


def by_operator(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x += x
    return x


def into(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    torch.mul(x, 2, out=y)
    return y


def repaired(gm: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    _compat.keep_gradients(gm)
    return gm.forward


@pytest.mark.parametrize("backend", [repaired, partial(domino, options={"lowering": "eager"})])
@pytest.mark.parametrize("forward", [in_place, by_operator, into])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_functions_that_write_to_what_they_return_keep_their_gradient(
    backend: Any, forward: Callable[[torch.Tensor], torch.Tensor], checkpointed: bool
) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return forward(x)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 3

    def model(x: torch.Tensor) -> torch.Tensor:
        return Doubled.apply(x.sin()).cos()  # type: ignore[no-any-return]

    def step(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    found = []
    for run in (step, compiled):
        x = torch.arange(4.0, requires_grad=True)
        run(x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0])


def test_what_torch_keeps_for_products_can_be_given_back() -> None:
    _compat.free_product_workspaces()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        left = torch.ones(64, 64, device="cuda")
        torch.mm(left, left, out=left.clone())
        used = left.untyped_storage().nbytes()
        _compat.free_product_workspaces()
        assert torch.cuda.memory_allocated() == before + used


def test_operation_of_what_the_partitioner_wraps() -> None:
    from torch._prims import rng_prims

    graph = fx.Graph()
    x, state = graph.placeholder("x"), graph.placeholder("state")
    drawn = torch.ops.aten.bernoulli.p
    plain = graph.call_function(drawn, (x, 0.5))
    saves = graph.call_function(rng_prims.run_and_save_rng_state, (drawn, x, 0.5))
    runs = graph.call_function(rng_prims.run_with_rng_state, (state, drawn, x, 0.5))
    for node in (plain, saves, runs):
        assert _compat.operation_of(node) == (drawn, (x, 0.5), {})


def test_operation_of_a_checkpointed_region() -> None:
    """What a real partition wraps is told as what it runs."""
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch.utils.checkpoint import checkpoint

    found: set[Any] = set()

    def partition(joint: Any, inputs: Any, **kwargs: Any) -> Any:
        graphs = min_cut_rematerialization_partition(joint, inputs, **kwargs)
        for part in graphs:
            found.update(_compat.operation_of(n)[0] for n in part.graph.nodes)
        return graphs

    def region(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x.sin(), 0.5).cos()

    from functorch.compile import aot_function, nop

    program = aot_function(
        lambda x: checkpoint(region, x, use_reentrant=False).sum(),
        fw_compiler=nop,
        partition_fn=partition,
    )
    program(torch.ones(4, requires_grad=True)).backward()
    assert {torch.ops.aten.sin.default, torch.ops.aten.cos.default} & found


def test_with_flat_inputs() -> None:
    gm = fx.symbolic_trace(lambda pair, y: pair[0] + 2 * pair[1] + y)
    seen: list[int] = []

    def compile_flat(flat: fx.GraphModule, inputs: list[Any]) -> Any:
        seen.append(len(inputs))
        return lambda arguments: flat(*arguments)

    a, b, c = (torch.full((2,), float(n)) for n in (1, 2, 3))
    program = _compat.with_flat_inputs(gm, [[a, b], c], compile_flat)
    torch.testing.assert_close(program([a, b], c), a + 2 * b + c)
    assert seen == [3]
    assert _compat.with_flat_inputs(gm, [a, c], lambda flat, inputs: len(inputs)) == 2


def test_break_line() -> None:
    lines: list[str] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        lines.append(_compat.break_line(gm))
        return gm.forward

    @torch.compile(backend=backend)
    def broken(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        torch._dynamo.graph_break()
        return y.cos()

    broken(torch.ones(2))
    assert "test_compat.py" in lines[0] and "graph_break" in lines[0]
    assert lines[1] == ""


def test_symmetric_memory_of_a_group(lone_rank: None) -> None:
    from torch.distributed._symmetric_memory import is_symm_mem_enabled_for_group

    group = dist.group.WORLD
    assert group is not None
    groups.enable_symmetric_memory(group)
    assert is_symm_mem_enabled_for_group(group.group_name)

    @torch.compile(options={"_micro_pipeline_tp": True})
    def gathered(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return groups.funcol.all_gather_tensor(x, 0, group) @ w

    x, w = torch.randn(4, 8), torch.randn(8, 4)
    torch.testing.assert_close(gathered(x, w)[:4], x @ w)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sleep_on_gpu() -> None:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    _compat.sleep_on_gpu(10_000_000)
    ended.record()
    ended.synchronize()
    assert began.elapsed_time(ended) > 1.0
