"""Reads the Python code that Inductor emitted for a graph: what happens to each buffer, in order.

Inductor emits a function ``call`` that allocates buffers, runs kernels on them, launches and waits
for collectives, and frees buffers. ``read`` follows it statement by statement and returns events.
It knows nothing of schedules or plans, and shares no code with what makes them.

Names are followed to *buffers* (storages): a view is the buffer that it views, and a name that
takes over another one's buffer (``buf2 = buf1; del buf1  # reuse``) has that buffer. What is not
understood is never guessed: an unknown function may write to everything that it is given, and
unknown communication, or communication under a condition, is an error (``Unreadable``).

Both ways of an ``if`` are followed, each from what was before it (``Chosen``). A loop is not
followed: it may read and write everything that it names.

Which arguments a kernel writes is read from its source: C++ kernels say ``const``, Triton kernels
name their arguments ``in_ptr``, ``out_ptr`` or ``in_out_ptr``, and torch's operations have schemas.
"""

from __future__ import annotations

import ast

from domino_compile.verify.emitted_events import (
    NONE,
    NOTHING,
    Buffer,
    Chosen,
    Event,
    Launch,
    Made,
    Program,
    Released,
    Returned,
    Unreadable,
    Use,
    Value,
    Wait,
)
from domino_compile.verify.emitted_names import RESULT, Bindings, merged
from domino_compile.verify.emitted_syntax import (
    NO_USE,
    NUMBERS,
    STATE,
    VIEWS,
    WAIT,
    WITH_STATE,
    bytes_of,
    collective_in,
    communicates,
    functions_of,
    literal,
    name_in,
    shape_of_view,
    stored_by,
    takes_apart,
    transport_command,
)
from domino_compile.verify.emitted_writes import by_schema, kernels_of, schema_of
from domino_compile.verify.transported import STARTS, WAITS

#: The collectives that are followed.
KINDS = (
    *("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"),
    *("broadcast", "all_reduce_coalesced", "all_gather_into_tensor_coalesced"),
    *("reduce_scatter_tensor_coalesced", "all_to_all_tokens"),
)
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
        self.functions = functions_of(module)
        self.partitions = [n for n in self.functions if n.startswith("partition_")]
        self.writes = kernels_of(module)
        self.names = Bindings()
        self.events = self.program.events
        self.fresh: dict[tuple[int, int], int] = {}
        self.depth = self.conditions = 0

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
            if self.depth == 1 and takes_apart(statement, argument):
                self.inputs(statement)
            elif (returned := self.statement(statement)) is not None:
                result = returned
                break
        if self.depth == 1:
            self.emit(Returned(statement.lineno, result.all))
            return result
        local = [key for key in self.names.values if key[0] == self.depth]
        self.depth -= 1
        self.bind(RESULT, result, statement.lineno)
        for key in local:
            self.events += self.names.release(key, statement.lineno)
        return result

    def inputs(self, statement: ast.stmt) -> None:
        """Take the graph's inputs, each a buffer of its own."""
        for target in ast.walk(statement):
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
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
        elif isinstance(node, ast.If):
            self.choose(node)
        elif isinstance(node, (ast.For, ast.While, ast.Try)):
            self.repeat(node)
        self.release(RESULT, node.lineno)
        return None

    def assign(self, node: ast.Assign) -> None:
        """Follow an assignment to a name, or to the names of a list's members."""
        target, value = node.targets[0], self.value(node.value)
        if isinstance(target, ast.Name):
            self.bind(target.id, value, node.lineno)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            self.put(target.value.id, target.slice, value, node.lineno)
        elif isinstance(target, (ast.Tuple, ast.List)):
            members = value.members or (value,) * len(target.elts)
            if len(members) != len(target.elts):
                raise Unreadable(f"line {node.lineno} takes apart a list of another length")
            for part, member in zip(target.elts, members, strict=True):
                if isinstance(part, ast.Name):
                    self.bind(part.id, member, node.lineno)

    def put(self, name: str, at: ast.expr, value: Value, line: int) -> None:
        """Follow an assignment to a member of a list."""
        whole = self.names.value((self.depth, name))
        members = list(whole.members)
        if isinstance(at, ast.Constant) and isinstance(at.value, int) and at.value < len(members):
            members[at.value] = value
            self.bind(name, Value(whole.buffers, tuple(members)), line)
        else:
            self.bind(name, Value(whole.all | value.all), line)

    def bind(self, name: str, value: Value, line: int) -> None:
        """Give a value a name."""
        for buffer in value.all:
            self.program.buffers[buffer].name = self.program.buffers[buffer].name or name
        self.events += self.names.bind((self.depth, name), value, line)

    def release(self, name: str, line: int) -> None:
        """Forget a name."""
        self.events += self.names.release((self.depth, name), line)

    def choose(self, node: ast.If) -> None:
        """Follow both ways of a condition, each from here; afterwards a name may be from either."""
        self.value(node.test)
        before, outside = self.names, self.events
        ways, ends = [], []
        self.conditions += 1
        for body in (node.body, node.orelse):
            self.names, self.events = before.copy(), []
            if any(self.statement(inner) is not None for inner in body):
                raise Unreadable(f"line {node.lineno} returns under a condition")
            ways.append(tuple(self.events))
            ends.append(self.names)
        self.conditions -= 1
        self.names, self.events = merged(ends), outside
        self.emit(Chosen(node.lineno, tuple(ways)))

    def repeat(self, node: ast.stmt) -> None:
        """Follow a loop: it may read and write everything that it names."""
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        used = dict.fromkeys(n.id for n in names)
        called = (self.functions[name] for name in used if name in self.functions)
        if any(communicates(ast.unparse(x)) for x in (node, *called)):
            raise Unreadable(f"line {node.lineno} communicates in a loop")
        seen = NONE.union(*(self.names.value((self.depth, name)).all for name in used))
        self.emit(Use(node.lineno, type(node).__name__.lower(), seen, seen))
        for name in stored_by(node):
            self.bind(name, Value(seen | {self.new(name)}), node.lineno)

    # -- expressions -----------------------------------------------------------------------

    def value(self, node: ast.expr) -> Value:
        """Return what an expression stands for, and follow the calls in it."""
        if isinstance(node, ast.Name):
            return self.names.value((self.depth, node.id))
        if isinstance(node, (ast.Tuple, ast.List)):
            return Value(members=tuple(self.value(x) for x in node.elts))
        if isinstance(node, ast.Subscript):
            return self.member(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        inside = [self.value(x) for x in ast.iter_child_nodes(node) if isinstance(x, ast.expr)]
        return Value(NONE.union(*(value.all for value in inside)))

    def member(self, node: ast.Subscript) -> Value:
        """Return a member of a list; one of an operation's results has a buffer of its own.

        It may also be what the operation was given, unless its results are ``apart``.
        """
        whole, at = self.value(node.value), node.slice
        if not (isinstance(at, ast.Constant) and isinstance(at.value, int)):
            return Value(whole.all)
        if whole.members:
            return whole.members[at.value]
        buffers = set[int]() if whole.apart else set(whole.buffers)
        for buffer in whole.buffers:
            if not self.program.buffers[buffer].given:
                if (buffer, at.value) not in self.fresh:
                    self.fresh[buffer, at.value] = self.new("")
                buffers.add(self.fresh[buffer, at.value])
        return Value(frozenset(buffers), apart=whole.apart)

    def call(self, node: ast.Call) -> Value:
        """Follow a call; return its result."""
        name = ast.unparse(node.func)
        last = name.rsplit(".", 1)[-1]
        if self.conditions and communicates(name):
            raise Unreadable(f"line {node.lineno} communicates under a condition")
        if operation := collective_in(name):
            return self.collective(node, operation)
        if command := transport_command(name):
            return self.transport(node, command)
        if communicates(name):
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
                self.names.hand_over((self.depth, node.args[-1].id))
            return self.run(inner, given)
        if last in VIEWS:
            return Value(self.value(node.args[0]).all)
        if last.startswith("empty") and not name.startswith("torch.ops."):
            made = self.new("", bytes_of(node))
            self.emit(Made(node.lineno, made))
            return Value(frozenset({made}))
        if last in NUMBERS and isinstance(node.func, ast.Attribute) and not node.args:
            if read := self.value(node.func.value).all:
                self.emit(Use(node.lineno, name, read, NONE))
            return NOTHING
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
                settings=tuple(map(literal, rest)),
                names=tuple(map(name_in, parts)),
                shapes=tuple(map(shape_of_view, parts)),
                sent=tuple(value.all for value in tensors),
                received=tuple(value.all for value in made),
            )
        )
        return Value(members=made) if first.members else made[0]

    def transport(self, node: ast.Call, command: str) -> Value:
        """Follow a start, a wait or a release of the transport."""
        if node.keywords:
            raise Unreadable(f"line {node.lineno} names arguments of {command}")
        first, settings = self.value(node.args[0]).all, tuple(map(literal, node.args[-2:]))
        if command in STARTS:
            made = Value(frozenset({self.new("")}))
            names, shapes = (name_in(node.args[0]),), (shape_of_view(node.args[0]),)
            given = (command, settings, names, shapes, (first,), (made.all,))
            self.emit(Launch(node.lineno, *given))
            return made
        if command in WAITS:
            sent = self.value(node.args[1]).all
            self.emit(Wait(node.lineno, first, command, sent, settings))
        else:
            self.emit(Released(node.lineno, first, command, settings))
        return NOTHING

    def other(self, node: ast.Call, name: str) -> Value:
        """Follow a kernel, an operation of torch or an unknown function."""
        positional = [self.value(x) for x in node.args]
        named = {str(k.arg): self.value(k.value) for k in node.keywords}
        owner = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else NOTHING
        reads = owner.all.union(*(x.all for x in (*positional, *named.values())))
        writes, aliases = self.written(name, positional, named, reads)
        if reads:
            self.emit(Use(node.lineno, name, reads, writes))
        is_apart = schema_of(name) is not None and not aliases
        return Value(aliases | {self.new("")}, apart=is_apart)

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
        self.events.append(event)
