"""All private or version-dependent parts of torch that we use, in one place.

Works on torch 2.11 and newer. Each function has a test in ``tests/compat``. The module ``kernels``
holds the parts about kernels that Inductor generates for scheduled graphs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx

from domino_compile._compat.config import inductor_config as inductor_config
from domino_compile._compat.config import inductor_has_option as inductor_has_option
from domino_compile._compat.copies import copy_of as copy_of
from domino_compile._compat.emitted import LOOKS, install_code_hook
from domino_compile._compat.emitted import Emitted as Emitted
from domino_compile._compat.emitted import LowerAgain as LowerAgain
from domino_compile._compat.emitted import accept_loaded as accept_loaded
from domino_compile._compat.emitted import look_at_code as look_at_code
from domino_compile._compat.graph_trees import forget_failed_warm_up as forget_failed_warm_up
from domino_compile._compat.graph_trees import graph_skips as graph_skips
from domino_compile._compat.kernels import BOTH_REDUCTIONS as BOTH_REDUCTIONS
from domino_compile._compat.kernels import compile_kernels_by as compile_kernels_by
from domino_compile._compat.kernels import fuse_both_reductions as fuse_both_reductions
from domino_compile._compat.requests import Answer as Answer
from domino_compile._compat.requests import Asked as Asked
from domino_compile._compat.requests import GraphCompiler as GraphCompiler
from domino_compile._compat.requests import answer_requests as answer_requests
from domino_compile._compat.requests import load_dynamo as load_dynamo
from domino_compile._compat.symmetric import keep_calls as keep_calls
from domino_compile._compat.symmetric import (
    register_collective_lowerings as register_collective_lowerings,
)
from domino_compile._compat.wrap import wrap_once


def fake_mode_of(graph: fx.Graph) -> Any:
    """Return the fake tensor mode of the graph's ``val`` metadata (a new one if it has none)."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


def can_view(fake_mode: Any, value: torch.Tensor, sizes: list[Any]) -> bool:
    """Return whether ``value.view(sizes)`` is possible without a copy."""
    try:
        with fake_mode:
            torch.ops.aten.view.default(value, sizes)
    except (RuntimeError, ValueError):
        return False
    return True


def size_operations() -> dict[Any, Callable[[Any, Any], Any]]:
    """Return the Python functions of torch's operations on two sizes, by their sympy classes."""
    from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod, PythonMod

    divisions, rests = (FloorDiv, CleanDiv), (Mod, PythonMod)
    return {
        **dict.fromkeys(divisions, operator.floordiv),
        **dict.fromkeys(rests, operator.mod),
    }


def draws_and_saves(target: Any) -> bool:
    """Return whether an operation draws random numbers in a checkpointed region, in eager order.

    Such an operation runs another one, and saves the generator's state for the recomputation.
    """
    from torch._prims.rng_prims import run_and_save_rng_state

    return target is run_and_save_rng_state


def operation_of(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return a node's operation and arguments, even inside a checkpointed region.

    The partitioner wraps operations there that draw random numbers, or might, such as attention.
    """
    from torch._prims import rng_prims

    args, kwargs = tuple(node.args), dict(node.kwargs)
    graphsafe = getattr(rng_prims, "graphsafe_run_with_rng_state", None)
    if node.target is rng_prims.run_with_rng_state:
        return args[1], args[2:], kwargs
    if node.target is rng_prims.run_and_save_rng_state or node.target is graphsafe:
        kwargs.pop("rng_state", None)
        return args[0], args[1:], kwargs
    return node.target, args, kwargs


def strictly_bounded_sizes(graph: fx.Graph) -> set[Any]:
    """Return the dynamic sizes (symbols) on which a guard is an error.

    These come from ``mark_dynamic(x, dim, min=..., max=...)``.
    """
    from torch.fx.experimental.symbolic_shapes import StrictMinMaxConstraint

    bounded: set[Any] = set()
    shape_env = getattr(fake_mode_of(graph), "shape_env", None)
    for tracked in getattr(shape_env, "tracked_fakes", None) or ():
        constraints = getattr(tracked.symbolic_context, "constraint_sizes", None) or ()
        for size, constraint in zip(getattr(tracked.fake, "shape", ()), constraints, strict=False):
            if isinstance(size, torch.SymInt) and isinstance(constraint, StrictMinMaxConstraint):
                bounded |= size.node.expr.free_symbols
    return bounded


def register_random_slice_lowering(op: Any) -> None:
    """Lower ``random_slice`` as Inductor lowers ``inductor_random``: fused, indexed by element.

    A draw is ``ops.rand(seed, linear index)``. A slice is the same draw at the indices that its
    elements have in the whole value. (The lowering of ``inductor_random`` has an ``offset``, which
    only suits slices of the first dimension; an indexer with the whole value's strides suits all.)
    """
    from torch._inductor import ir, lowering
    from torch._inductor.virtualized import ops

    if op in lowering.lowerings:
        return

    @lowering.register_lowering(op, type_promotion_kind=None)
    def random_slice(
        size: list[Any], seed: Any, mode: str, dim: int, start: Any, length: Any
    ) -> Any:
        device = seed.get_device_or_error()
        strides = ir.FlexibleLayout.contiguous_strides(list(size))
        part = [*size[:dim], length, *size[dim + 1 :]]
        position = ir.FixedLayout(
            device, torch.float32, part, strides, offset=start * strides[dim]
        ).make_indexer()
        load_seed = seed.make_loader()

        def draw(index: Any) -> Any:
            return getattr(ops, mode)(load_seed([]), ops.index_expr(position(index), torch.int32))

        result = ir.Pointwise.create(device=device, dtype=torch.float32, inner_fn=draw, ranges=part)
        result.realize()
        return result


def register_materialise_lowering(op: Any) -> None:
    """Lower ``materialise`` to its argument, in a separate buffer with the graph's strides.

    Left to itself, Inductor makes the buffer contiguous. A scaled product refuses a second factor
    that is not column-major. A value that is only joined with others is left to Inductor, which
    then computes it where it belongs in the joined value.
    """
    from torch._inductor import ir, lowering
    from torch._inductor.virtualized import V

    if op in lowering.lowerings:
        return

    @lowering.register_lowering(op, type_promotion_kind=None)
    def materialise(value: Any) -> Any:
        node = V.graph.current_node
        if all(user.target is torch.ops.aten.cat.default for user in node.users):
            return ir.ExternKernel.copy_input(value)
        strides = ir.convert_shape_to_inductor(node.meta["val"].stride())
        return ir.ExternKernel.require_exact_strides(value, strides)


def realize_to_strides(node: fx.Node) -> None:
    """Let Inductor store a value with the strides that it has in the graph."""
    node.meta["inductor_realize_to_strides"] = True


def register_product_lowerings(
    mm: Any, addmm: Any, run_mm: Callable[..., Any], run_addmm: Callable[..., Any]
) -> None:
    """Lower products beside a collective to calls of our functions, into Inductor's buffers.

    Inductor calls functions that it does not generate as members of ``extern_kernels``. Generated
    code from a cache finds ours there too, because they are registered before any compile.

    Args:
        mm: ``mm_beside(left, right, held, share)``.
        addmm: ``addmm_beside(added, left, right, held, share)``.
        run_mm: The function that computes ``mm`` into ``out``.
        run_addmm: The function that computes ``addmm`` into ``out``.
    """
    from torch._inductor import ir, lowering
    from torch._inductor.kernel.mm_common import mm_args
    from torch._inductor.select_algorithm import extern_kernels, realize_inputs

    if mm in lowering.lowerings:
        return

    def called(name: str, layout: Any, inputs: list[Any], held: int, share: float) -> Any:
        node = ir.ExternKernelOut(
            layout=layout,
            inputs=inputs,
            python_kernel_name=f"extern_kernels.{name}",
            kwargs={"held": held, "share": share},
        )
        return ir.TensorBox.create(node)

    @lowering.register_lowering(mm, type_promotion_kind=None)
    def mm_beside(left: Any, right: Any, held: int, share: float) -> Any:
        *_, layout, left, right = mm_args(left, right)
        return called("domino_mm", layout, [left, right], held, share)

    @lowering.register_lowering(addmm, type_promotion_kind=None)
    def addmm_beside(added: Any, left: Any, right: Any, held: int, share: float) -> Any:
        *_, layout, left, right = mm_args(left, right)
        added = realize_inputs(added)
        return called("domino_addmm", layout, [added, left, right], held, share)

    for name, function in (("domino_mm", run_mm), ("domino_addmm", run_addmm)):
        setattr(extern_kernels, name, function)


def products_are_inductors(options: Mapping[str, Any]) -> bool:
    """Return whether Inductor chooses how to compute products, or emits C++ code that calls them.

    Args:
        options: Inductor's options for one compile.
    """
    config = inductor_config()
    names = ("max_autotune", "max_autotune_gemm", "cpp_wrapper")
    return any(options.get(name, getattr(config, name)) for name in names)


def is_contiguous(value: torch.Tensor) -> bool:
    """Return whether a (fake) tensor is provably contiguous; adds no guard.

    This is called often. For static sizes the tensor itself knows, which is much faster.
    """
    if all(type(n) is int for n in (*value.shape, *value.stride())):
        return value.is_contiguous()
    from torch._prims_common import is_contiguous_or_false

    return bool(is_contiguous_or_false(value))


def is_plain(target: Any) -> bool:
    """Return whether an operation returns one new tensor, writes to none, and is no view."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    schema = target._schema
    only = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
    return only and not any(a.alias_info for a in (*schema.arguments, *schema.returns))


def new_fake(
    fake_mode: Any, shape: list[Any], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return a contiguous fake tensor, made without running an operation under the mode."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._mode_utils import no_dispatch

    with no_dispatch():
        made = torch.empty(shape, dtype=dtype, device="meta")
        fake: torch.Tensor = FakeTensor(fake_mode, made, device)
    return fake


def group_named(name: str) -> Any:
    """Return the process group with the name that functional collectives use."""
    from torch.distributed import distributed_c10d

    resolve: Any = distributed_c10d._resolve_process_group
    return resolve(name)


def is_misdeclared_attention(node: fx.Node) -> bool:
    """Return whether a node is attention on a CPU whose log-sum-exp has not its declared type.

    Up to torch 2.12 the log-sum-exp is declared as float32, but is float64 for float64 values.
    """
    if node.target is not torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        return False
    out, log_sum_exp = node.meta["val"]
    return bool(out.dtype is torch.float64 and log_sum_exp.dtype is not torch.float64)


def rank_in(name: str) -> int:
    """Return this process's rank in the group with the name that functional collectives use."""
    return int(group_named(name).rank())


def group_timeout_s(name: str) -> float:
    """Return how many seconds a collective of a group may take; infinity if that is not known."""
    group = group_named(name)
    limits = [math.inf]
    for device in getattr(group, "_device_types", ()):
        try:
            timeout = group._get_backend(device).options._timeout
        except (RuntimeError, AttributeError):  # emulated groups have no such backend
            continue
        limits.append(timeout.total_seconds())
    return min(limits)


def group_size(name: str) -> int:
    """Return the number of ranks of the group with the name that functional collectives use."""
    try:
        return int(group_named(name).size())
    except (RuntimeError, ValueError, LookupError):
        return 1


def preserve_order(graph: fx.Graph, after: Mapping[fx.Node, Iterable[fx.Node]]) -> None:
    """Make Inductor run each node after some others (``node -> earlier nodes``).

    Each node is wrapped in the ``control_deps`` higher-order operation, which disappears when
    Inductor lowers the graph and leaves an ordering dependency in its scheduler. The dictionary is
    in graph order.
    """
    from torch._inductor.fx_passes.control_dependencies import preserve_node_ordering
    from torch.utils._ordered_set import OrderedSet

    preserve_node_ordering(graph, {node: OrderedSet(first) for node, first in after.items()})


def mode_options(mode: str) -> dict[str, Any]:
    """Return the Inductor options that a ``torch.compile`` mode stands for."""
    from torch._inductor import list_mode_options

    return dict(list_mode_options(mode))


def compile_with_inductor(
    gm: fx.GraphModule, example_inputs: Any, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """Compile a Dynamo graph with Inductor; the options also hold for a lazy backward."""
    from torch._inductor.compile_fx import compile_fx

    keep_order_behind_waits()
    install_code_hook()
    compiled: Any = compile_fx(gm, example_inputs, config_patches=dict(options))
    return cast(Callable[..., Any], compiled)


def keep_order_behind_waits() -> None:
    """Repair Inductor's C++ scheduling, which can run a reader before the wait it depends on.

    A wait (like any operation in place) gives its buffer a new name, and readers depend on that
    name. To fuse loops of different shapes, such as those of one slice's random draw and of its
    consumer, ``SchedulerNode.recompute_size_and_body`` computes the dependencies again. In torch
    2.11 to 2.13 (2.14 is right) it then puts the new names back only if there are ordering
    dependencies as well.
    """
    from torch._inductor.scheduler import SchedulerNode

    def wrap(original: Any) -> Any:
        def recompute_size_and_body(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            self.set_read_writes(self.read_writes.rename(self.mutation_renames))

        return recompute_size_and_body

    wrap_once(SchedulerNode, "recompute_size_and_body", wrap)


def keep_gradients(gm: fx.GraphModule) -> None:
    """Repair captured functions with a custom gradient that write to their own results.

    Dynamo lets such a function also return intermediate values. For a tensor that is written to (as
    in Megatron's all-reduce of a copy), torch 2.11 returns every name, ``x`` and the result of
    ``x.copy_(...)``. Autograd then treats the last one as the function's result, and no gradient
    arrives with any backend (2.13 and 2.14 are correct, 2.12 was not tried). Nothing uses the other
    names, so this returns copies, which are different tensors.
    """
    if torch.__version__ >= "2.13":
        return
    applied = torch.ops.higher_order.autograd_function_apply
    for module in list(gm.modules()):
        if isinstance(module, fx.GraphModule):
            for node in module.graph.find_nodes(op="call_function", target=applied):
                body: Any = node.args[0]
                if isinstance(body, fx.Node) and body.op == "get_attr":
                    _return_each_once(cast(fx.GraphModule, module.get_submodule(str(body.target))))


def _return_each_once(body: fx.GraphModule) -> None:
    """Let the forward of a captured function return no tensor twice."""
    (output,) = body.graph.find_nodes(op="output")
    returned: Any = output.args[0]
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2):
        return
    results, saved = returned
    seen: set[int] = set()
    distinct: list[Any] = []
    for result in results if isinstance(results, (tuple, list)) else ():
        if isinstance(result, fx.Node):
            tensor = id(result.meta.get("example_value", result))
            if tensor in seen:
                with body.graph.inserting_before(output):
                    result = body.graph.call_method("clone", (result,))
            seen.add(tensor)
        distinct.append(result)
    if distinct and distinct != list(results):
        output.args = ((tuple(distinct), saved),)
        body.recompile()


def inductor_decompositions() -> Any:
    """Return the decompositions that Inductor captures graphs with."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def graph_pass(
    run: Callable[[fx.Graph], None],
    identity: str,
    before: Any = None,
    looks_at_code: bool = False,
) -> Any:
    """Return a pass for one of Inductor's hooks, with a cache key.

    Args:
        run: The pass.
        identity: A text that changes whenever the pass would do something else.
        before: The user's pass or passes in the hook, which run first.
        looks_at_code: Whether the pass may have its graphs lowered again (``emitted``).
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass

    earlier = tuple(before) if isinstance(before, (list, tuple)) else (before,) if before else ()

    class Pass(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            for other in earlier:
                other(graph)
            run(graph)

        def uuid(self) -> Any:
            keys = [getattr(other, "uuid", lambda: None)() for other in earlier]
            return None if None in keys else (identity, *map(repr, keys))

    made = Pass()
    setattr(made, LOOKS, looks_at_code)
    return made


def parameter_inputs(gm: fx.GraphModule, example_inputs: Any) -> list[int]:
    """Return the positions of inputs that are a module's parameters or buffers."""
    positions = []
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        example = example_inputs[position] if position < len(example_inputs) else None
        if isinstance(example, torch.nn.Parameter) or "_parameters[" in input_name(node):
            positions.append(position)
    return positions


def input_name(placeholder: fx.Node) -> str:
    """Return the user's name of an input of a Dynamo graph, such as ``L['tokens']``."""
    source = getattr(placeholder, "_dynamo_source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def with_flat_inputs(
    gm: fx.GraphModule,
    example_inputs: list[Any],
    compile_flat: Callable[[fx.GraphModule, list[Any]], Callable[..., Any]],
) -> Callable[..., Any]:
    """Compile a graph whose inputs may be lists, as compiled autograd's are.

    The program of flat inputs takes them in one list, which it may empty.
    """
    if not any(isinstance(x, (list, tuple, dict)) for x in example_inputs):
        return compile_flat(gm, example_inputs)
    from torch._dynamo.utils import flatten_graph_inputs

    flattened: Any = flatten_graph_inputs
    compiled: Callable[..., Any] = flattened(gm, example_inputs, compile_flat)
    return compiled


def break_line(gm: fx.GraphModule) -> str:
    """Return the user's line at which Dynamo broke the graph, and the reason.

    The result is empty if the graph is whole, or if this torch does not say.
    """
    reason = getattr(gm, "compile_subgraph_reason", None)
    frames = list(getattr(reason, "user_stack", None) or ())
    if not frames or not getattr(reason, "graph_break", False):
        return ""
    said = str(getattr(reason, "reason", "")).strip().splitlines()
    line = f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line or ''}".strip()
    return f"{line} ({said[0].strip()})" if said else line


def input_position(placeholder: fx.Node) -> int | None:
    """Return the position of the Dynamo graph's input that a joint graph's input belongs to."""
    description: Any = placeholder.meta.get("desc")
    while description is not None:
        index = getattr(description, "idx", None)
        if index is not None:
            return int(index)
        description = getattr(description, "base", None)
    return None


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) without distributed."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def backward_at_once() -> Any:
    """Return a context in which a backward graph is compiled together with its forward."""
    from torch._functorch import config

    settings: Any = config
    return settings.patch(force_non_lazy_backward_lowering=True)


def profiler_runs() -> bool:
    """Return whether torch's profiler is recording; a second one would silently replace it."""
    return bool(torch.autograd._profiler_enabled())


def start_fake_group(ranks: int) -> None:
    """Make the default process group a fake one, with this process as rank 0."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())


def emit_artifact(name: str, text: str) -> None:
    """Send a text to structured tracing (tlparse shows it beside the graph's artefacts)."""
    from torch._logging import trace_structured

    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": name, "encoding": "string"},
        payload_fn=lambda: text,
    )


def inductor_option_types() -> dict[str, type | None]:
    """Return the names of all Inductor options, each with its type.

    The type is ``None`` if a value cannot be checked with isinstance (unions, generics). This is
    the check that torch.compile makes for ``backend="inductor"``.
    """
    from typing import get_origin

    config = inductor_config()
    result: dict[str, type | None] = {}
    for name in config.get_config_copy():
        kind = config.get_type(name)
        result[name] = kind if isinstance(kind, type) and get_origin(kind) is None else None
    return result


def tracing_is_on() -> bool:
    """Return whether structured tracing (``TORCH_TRACE``) records artefacts."""
    from torch._logging._internal import trace_log

    return bool(trace_log.handlers)


def shared_store(group: str) -> tuple[Any, list[int], int] | None:
    """Return the key-value store that a process group's ranks share.

    Returns:
        The store, the group's global ranks and this process's position among them; ``None`` if
        nothing is shared (one rank, or a group that is emulated in one process).
    """
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    process_group = group_named(group)
    store = distributed_c10d._get_process_group_store(process_group)
    shared = isinstance(base_store(store), (dist.TCPStore, dist.FileStore))
    if process_group.size() < 2 or not shared:
        return None
    return store, dist.get_process_group_ranks(process_group), process_group.rank()


def memberships() -> list[tuple[str, int, list[int], bool]]:
    """Return the process groups of this process.

    Returns:
        For each group its name, this process's position, its global ranks, and whether they share a
        store.
    """
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    if not (dist.is_available() and dist.is_initialized()):
        return []
    found = []
    for group, name in distributed_c10d._world.pg_names.items():
        ranks = dist.get_process_group_ranks(group)
        found.append((name, group.rank(), ranks, shared_store(name) is not None))
    return sorted(found)


def base_store(store: Any) -> Any:
    """Return the store below the prefixes that process groups put in front of their keys."""
    import torch.distributed as dist

    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store


def sleep_on_gpu(cycles: int) -> None:
    """Keep the current stream busy for a number of clock cycles."""
    torch.cuda._sleep(cycles)


def free_product_workspaces() -> None:
    """Free torch's workspaces for matrix products on a GPU; torch allocates them again."""
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()


def cache_folder() -> str:
    """Return the folder of Inductor's on-disk caches."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return str(cache_dir())


def caches_enabled() -> bool:
    """Return whether Inductor may answer a compile from a cache of an earlier process."""
    config = inductor_config()
    return not config.force_disable_caches and bool(config.fx_graph_cache)


#: Settings with which Inductor compiles every graph again, and so does AOTAutograd, which caches
#: nothing that Inductor does not. Kernels that were built before are not built again. With
#: ``force_disable_caches`` they would be, because it makes a new folder for every compile.
NO_GRAPH_CACHES = {"fx_graph_cache": False, "fx_graph_remote_cache": False}


def forget_names(graph: fx.Graph) -> None:
    """Free the names of erased nodes, so that recreated nodes get the same names."""
    namespace = type(graph._graph_namespace)()
    for node in graph.nodes:
        namespace.create_name(node.name, node)
    graph._graph_namespace = namespace


@contextmanager
def on_real_tensors() -> Iterator[None]:
    """Compute with real tensors, also while a compiler traces with fake ones."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield
