"""Reads the Python code that Inductor emitted for a graph: what happens to each buffer, in order.

Inductor emits a function ``call`` that allocates buffers, runs kernels on them, launches and waits
for collectives, and frees buffers. ``read`` follows it statement by statement and returns events.
It knows nothing of schedules or plans, and shares no code with what makes them.

Names are followed to *buffers* (storages): a view is the buffer that it views, and a name that
takes over another one's buffer (``buf2 = buf1; del buf1  # reuse``) has that buffer. What is not
understood is never guessed: an unknown function may write to everything that it is given, and
unknown communication, or communication under a condition, is an error (``Unreadable``).

Which arguments a kernel writes is read from its source: C++ kernels say ``const``, Triton kernels
name their arguments ``in_ptr``, ``out_ptr`` or ``in_out_ptr``, and torch's operations have schemas.
"""

from __future__ import annotations

import ast
from collections import defaultdict

import torch

from domino_compile.verify.emitted_events import (
    NONE,
    NOTHING,
    Buffer,
    Event,
    Freed,
    Launch,
    Made,
    Program,
    Returned,
    Unreadable,
    Use,
    Value,
    Wait,
)
from domino_compile.verify.emitted_writes import by_schema, kernels_of, schema_of

#: The namespace of the collectives that are followed, what waits for them, and which they are.
COLLECTIVES, WAIT = "torch.ops._c10d_functional.", "wait_tensor"
KINDS = (
    *("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"),
    *("broadcast", "all_reduce_coalesced", "all_gather_into_tensor_coalesced"),
    "reduce_scatter_tensor_coalesced",
)
#: Other ways to communicate, which are not followed.
OTHER_COMMUNICATION = (
    *("torch.ops.symm_mem.", "torch.ops.c10d.", "torch.ops._c10d_functional_autograd."),
    *("torch.distributed.", "dist.all_", "empty_strided_p2p("),
)
#: Functions that look at a tensor's metadata only, or at no tensor.
NO_USE = ("assert_size_stride", "assert_alignment", "get_raw_stream", "set_device")
#: Functions that return a view of their first argument.
VIEWS = ("reinterpret_tensor", "as_strided")
#: What runs an operation with a state of random numbers, and which argument the operation is.
WITH_STATE = {
    "torch.ops.higher_order.run_and_save_rng_state": 0,
    "torch.ops.higher_order.run_with_rng_state": 1,
    "torch.ops.higher_order.graphsafe_run_with_rng_state": 0,
}
#: The name of the argument that is the state, where it is not given in front of the operation.
STATE = "rng_state"
#: The name of what a function of the module returned, until it has another one.
RESULT = "(result)"
#: Functions of the module call one another at most this deep.
DEEPEST = 4


def read(code: str) -> Program:
    """Return what emitted code does.

    Args:
        code: A module as Inductor writes it.

    Raises:
        Unreadable: It is not such a module, or has communication that is not understood.
    """
    if "cpp_wrapper_src" in code or "CppWrapperCodeCache" in code:
        raise Unreadable("Inductor emitted its wrapper in C++ (cpp_wrapper)")
    try:
        module = ast.parse(code)
    except SyntaxError as error:
        raise Unreadable(f"the emitted code is not Python: {error}") from None
    reader = _Reader(module)
    if "call" not in reader.functions:
        raise Unreadable("the emitted code has no function 'call'")
    reader.run(reader.functions["call"], NOTHING)
    return reader.program


class _Reader:
    """Follows a module's functions from ``call`` on.

    A name is stored with the depth of the call that it belongs to, since functions are followed
    where they are called.

    Args:
        module: The parsed code.
    """

    def __init__(self, module: ast.Module) -> None:
        self.program = Program()
        self.functions = _functions(module)
        self.partitions = [n for n in self.functions if n.startswith("partition_")]
        self.writes = kernels_of(module)
        self.values: dict[tuple[int, str], Value] = {}
        self.holders: dict[int, set[tuple[int, str]]] = defaultdict(set)
        self.bound: dict[int, int] = {}
        self.fresh: dict[tuple[int, int], int] = {}
        self.depth = 0

    # -- functions and statements ----------------------------------------------------------

    def run(self, function: ast.FunctionDef, given: Value) -> Value:
        """Follow a function; return what it returns."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable(f"{function.name} calls itself")
        argument = function.args.args[-1].arg
        self.bind(argument, given, function.lineno)
        result = NOTHING
        for statement in function.body:
            if self.depth == 1 and isinstance(statement, ast.Assign) and _is(statement, argument):
                self.inputs(statement)
            elif (returned := self.statement(statement)) is not None:
                result = returned
                break
        if self.depth == 1:
            self.emit(Returned(statement.lineno, result.all))
            return result
        local = [key for key in self.values if key[0] == self.depth]
        self.depth -= 1
        self.bind(RESULT, result, statement.lineno)
        for _, name in local:
            self.release(name, statement.lineno, self.depth + 1)
        return result

    def inputs(self, statement: ast.Assign) -> None:
        """Take the graph's inputs, each a buffer of its own."""
        for target in ast.walk(statement.targets[0]):
            if isinstance(target, ast.Name):
                made = self.new(target.id, given=True)
                self.bind(target.id, Value(frozenset({made})), statement.lineno)

    def statement(self, node: ast.stmt) -> Value | None:
        """Follow one statement; return what it returns, if it is a return."""
        if isinstance(node, ast.Assign):
            self.assign(node)
        elif isinstance(node, ast.Expr):
            self.value(node.value)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.release(target.id, node.lineno)
        elif isinstance(node, ast.With):
            values = [self.statement(inner) for inner in node.body]
            return next((value for value in values if value is not None), None)
        elif isinstance(node, ast.Return):
            return self.value(node.value) if node.value is not None else NOTHING
        elif isinstance(node, (ast.If, ast.For, ast.While, ast.Try)):
            self.under_condition(node)
        self.release(RESULT, node.lineno)
        return None

    def assign(self, node: ast.Assign) -> None:
        """Follow an assignment to a name, or to the names of a list's members."""
        target, value = node.targets[0], self.value(node.value)
        if isinstance(target, ast.Name):
            self.bind(target.id, value, node.lineno)
        elif isinstance(target, (ast.Tuple, ast.List)):
            members = value.members or (value,) * len(target.elts)
            if len(members) != len(target.elts):
                raise Unreadable(f"line {node.lineno} takes apart a list of another length")
            for part, member in zip(target.elts, members, strict=True):
                if isinstance(part, ast.Name):
                    self.bind(part.id, member, node.lineno)

    def bind(self, name: str, value: Value, line: int) -> None:
        """Give a value a name."""
        buffers = value.all
        for buffer in buffers:
            self.holders[buffer].add((self.depth, name))
            self.bound[buffer] = line
            self.program.buffers[buffer].name = self.program.buffers[buffer].name or name
        old = self.values.get((self.depth, name), NOTHING)
        self.values[self.depth, name] = value
        for buffer in sorted(old.all - buffers):
            self.drop(buffer, (self.depth, name), line)

    def release(self, name: str, line: int, depth: int | None = None) -> None:
        """Forget a name."""
        key = (self.depth if depth is None else depth, name)
        for buffer in sorted(self.values.pop(key, NOTHING).all):
            self.drop(buffer, key, line)

    def drop(self, buffer: int, key: tuple[int, str], line: int) -> None:
        """Free a buffer that has lost its last name, or note that another one took it over."""
        holders = self.holders[buffer]
        holders.discard(key)
        if not holders:
            self.emit(Freed(line, buffer))
        elif self.bound[buffer] == line and RESULT not in {name for _, name in (*holders, key)}:
            self.emit(Made(line, buffer))  # "buf2 = buf1; del buf1": the old content is not needed

    def under_condition(self, node: ast.stmt) -> None:
        """Follow what runs under a condition: anything in it may be read and written."""
        used = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        called = (self.functions[n] for n in dict.fromkeys(used) if n in self.functions)
        if any(_communicates(ast.unparse(x)) for x in (node, *called)):
            raise Unreadable(f"line {node.lineno} communicates under a condition")
        seen: frozenset[int] = frozenset()
        seen = seen.union(*(self.values.get((self.depth, n), NOTHING).all for n in used))
        self.emit(Use(node.lineno, type(node).__name__.lower(), seen, seen))
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self.bind(inner.id, Value(seen | {self.new(inner.id)}), node.lineno)

    # -- expressions -----------------------------------------------------------------------

    def value(self, node: ast.expr) -> Value:
        """Return what an expression stands for, and follow the calls in it."""
        if isinstance(node, ast.Name):
            return self.values.get((self.depth, node.id), NOTHING)
        if isinstance(node, (ast.Tuple, ast.List)):
            return Value(members=tuple(self.value(x) for x in node.elts))
        if isinstance(node, ast.Subscript):
            return self.member(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        inside = [self.value(x) for x in ast.iter_child_nodes(node) if isinstance(x, ast.expr)]
        return Value(NONE.union(*(value.all for value in inside)))

    def member(self, node: ast.Subscript) -> Value:
        """Return a member of a list; one of an operation's results has a buffer of its own."""
        whole, at = self.value(node.value), node.slice
        if not (isinstance(at, ast.Constant) and isinstance(at.value, int)):
            return Value(whole.all)
        if whole.members:
            return whole.members[at.value]
        buffers = set(whole.buffers)
        for buffer in whole.buffers:
            if not self.program.buffers[buffer].given:
                if (buffer, at.value) not in self.fresh:
                    self.fresh[buffer, at.value] = self.new("")
                buffers.add(self.fresh[buffer, at.value])
        return Value(frozenset(buffers))

    def call(self, node: ast.Call) -> Value:
        """Follow a call; return its result."""
        name = ast.unparse(node.func)
        last = name.rsplit(".", 1)[-1]
        if name.startswith(COLLECTIVES):
            return self.collective(node, name.removeprefix(COLLECTIVES).split(".")[0])
        if _communicates(name):
            raise Unreadable(f"line {node.lineno} communicates by {name}")
        if last == "clear" and isinstance(node.func, ast.Attribute) and not node.args:
            if isinstance(node.func.value, ast.Name):
                self.release(node.func.value.id, node.lineno)
            return NOTHING
        if last in NO_USE:
            return NOTHING
        if (inner := self.function(node.func)) is not None:
            given = self.value(node.args[-1])
            if isinstance(node.args[-1], ast.Name):  # the function empties the list
                self.values.pop((self.depth, node.args[-1].id), None)
                for buffer in given.all:
                    self.holders[buffer].discard((self.depth, node.args[-1].id))
            return self.run(inner, given)
        if last in VIEWS:
            return Value(self.value(node.args[0]).all)
        if last.startswith("empty") and not name.startswith("torch.ops."):
            made = self.new("", _bytes(node))
            self.emit(Made(node.lineno, made))
            return Value(frozenset({made}))
        if (place := WITH_STATE.get(name)) is not None:
            named = [keyword.value for keyword in node.keywords if keyword.arg == STATE]
            states = NONE.union(*(self.value(x).all for x in (*node.args[:place], *named)))
            self.emit(Use(node.lineno, last, states, NONE))
            taken, rest = node.args[place + 1 :], [k for k in node.keywords if k.arg != STATE]
            node = ast.copy_location(ast.Call(node.args[place], taken, rest), node)
            name = ast.unparse(node.func)
        return self.other(node, name)

    def function(self, called: ast.expr) -> ast.FunctionDef | None:
        """Return the function of this module that a call runs, if it is one."""
        if isinstance(called, ast.Name):
            return self.functions.get(called.id)
        if isinstance(called, ast.Subscript) and ast.unparse(called.value) == "self.partitions":
            return self.functions[self.partitions[ast.literal_eval(called.slice)]]
        return None

    def collective(self, node: ast.Call, operation: str) -> Value:
        """Follow a launch or a wait."""
        kind = operation.rstrip("_")
        first = self.value(node.args[0])
        if kind == WAIT:
            self.emit(Wait(node.lineno, first.all))
            return first
        if kind not in KINDS:
            raise Unreadable(f"line {node.lineno} communicates by {operation}")
        tensors = first.members or (first,)
        written = node.args[0]
        parts = written.elts if isinstance(written, ast.List) else [written]
        rest = (*node.args[1:], *(k.value for k in node.keywords))
        made = tensors
        if not operation.endswith("_"):
            made = tuple(Value(frozenset({self.new("")})) for _ in tensors)
        self.emit(
            Launch(
                line=node.lineno,
                kind=kind,
                settings=tuple(map(_literal, rest)),
                names=tuple(map(_name_in, parts)),
                shapes=tuple(map(_shape, parts)),
                sent=tuple(value.all for value in tensors),
                received=tuple(value.all for value in made),
            )
        )
        return Value(members=made) if first.members else made[0]

    def other(self, node: ast.Call, name: str) -> Value:
        """Follow a kernel, an operation of torch or an unknown function."""
        positional = [self.value(x) for x in node.args]
        named = {str(k.arg): self.value(k.value) for k in node.keywords}
        owner = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else NOTHING
        reads = owner.all.union(*(x.all for x in (*positional, *named.values())))
        writes, aliases = self.written(name, positional, named, reads)
        if reads:
            self.emit(Use(node.lineno, name, reads, writes))
        return Value(aliases | {self.new("")})

    def written(
        self,
        name: str,
        positional: list[Value],
        named: dict[str, Value],
        everything: frozenset[int],
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Return the buffers that a function may write, and those that its result may be."""
        out = named["out"].all if "out" in named else NONE
        if name.startswith("extern_kernels."):
            return (everything if name.endswith("_") else out), out
        if (flags := self.writes.get(name.removesuffix(".run"))) is not None:
            if len(flags) > len(positional):
                return everything, NONE
            places = (v.all for v, write in zip(positional, flags, strict=False) if write)
            return NONE.union(*places, *(v.all for v in positional[len(flags) :])), NONE
        schema = schema_of(name)
        return (everything, everything) if schema is None else by_schema(schema, positional, named)

    def new(self, name: str, size: int | None = None, given: bool = False) -> int:
        """Make a buffer."""
        self.program.buffers.append(Buffer(name, size, given))
        return len(self.program.buffers) - 1

    def emit(self, event: Event) -> None:
        """Note an event."""
        self.program.events.append(event)


def _functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    """Return the functions of the module and of its class ``Runner``, by name."""
    functions: dict[str, ast.FunctionDef] = {}
    for node in module.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        functions |= {x.name: x for x in inside if isinstance(x, ast.FunctionDef)}
    return {name: x for name, x in functions.items() if x.args.args}


def _is(statement: ast.Assign, name: str) -> bool:
    """Return whether a statement takes a list apart that has this name."""
    return isinstance(statement.value, ast.Name) and statement.value.id == name


def _communicates(text: str) -> bool:
    return any(part in text for part in (COLLECTIVES, *OTHER_COMMUNICATION))


def _literal(node: ast.expr) -> object:
    """Return a constant, or the text of anything else (a size that is not known yet)."""
    try:
        literal: object = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return tuple(literal) if isinstance(literal, list) else literal


def _name_in(node: ast.expr) -> str:
    """Return the name of the tensor that an expression views."""
    while isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    return node.id if isinstance(node, ast.Name) else ""


def _shape(node: ast.expr) -> str:
    """Return the shape that a view gives to a tensor; empty if it is not one."""
    is_view = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(VIEWS[0])
    return ast.unparse(node.args[1]) if is_view and isinstance(node, ast.Call) else ""


def _bytes(node: ast.Call) -> int | None:
    """Return the size of an allocation: size, strides and dtype; ``None`` if it is not constant."""
    try:
        size, strides = ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1])
        dtype = getattr(torch, ast.unparse(node.args[2]).removeprefix("torch."))
    except (ValueError, IndexError, AttributeError):
        return None
    if not all(size):
        return 0
    last = sum((extent - 1) * stride for extent, stride in zip(size, strides, strict=True))
    return int((last + 1) * dtype.itemsize)
