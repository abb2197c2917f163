"""Faults of the rewriting that the checker must find.

Usage: ``python -m benchmarks.mutants [--each 24] [--json benchmarks/results/mutants.json]``.

Each kind of fault (``benchmarks.mutant_kinds``, ``benchmarks.mutant_tokens``) is applied, at places
chosen at random, to graphs that the slicer has cut: GPT with dropout, Llama, sequence parallelism,
experts, checkpointed blocks, causal tokens, operations that couple the batch; and to graphs whose
tokens were exchanged or relaid (``benchmarks.token_cases``). The checker must refuse all. A change
that it accepts is run, before and after, on all ranks: if it changes no value it counts as
harmless, if it does the command ends with 1. One change of each kind that is made not to change a
value is tried too; the table says whether it is accepted, or why it is refused. A file's rows of
``benchmarks.transport_mutants`` stay.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import mutant_tokens, token_cases  # noqa: F401  (registers its kinds)
from benchmarks.mutant_kinds import FAULTS, HARMLESS, Change, Edit
from benchmarks.transport_mutants import PREFIX
from domino_compile.analysis import CutPlan, infer_cut
from domino_compile.passes.slice import slice_graph
from domino_compile.verify.check import Established, Memory, check
from domino_compile.verify.claims import Witness
from domino_compile.verify.interpret import Unknown, run
from domino_compile.verify.part import NotEstablished
from domino_compile.verify.plain import CONSTANT, INPUT, Graph, Tensor
from domino_compile.verify.read import read_graph
from tests.rules.capturing import capture, copy_to, fake_group, reduce_from
from tests.rules.models import GPT, VOCAB, B, D, Llama, LlamaStyle, S, Style

RANKS = 2


@dataclass(frozen=True)
class Case:
    """A graph before and after the slicer, and what that claims."""

    name: str
    before: Graph
    after: Graph
    witness: Witness


@dataclass
class Row:
    """A line of the table.

    Attributes:
        kind: of the faults.
        mutants: how many were made.
        rejected: how many of them the checker refused.
        accepted_harmless: how many it accepted that change no value.
        missed: the mutants that it accepted and that change a value.
        harmless: what became of the change that is made to be harmless.
    """

    kind: str
    mutants: int = 0
    rejected: int = 0
    accepted_harmless: int = 0
    missed: list[str] = field(default_factory=list)
    harmless: str = "does not occur in these graphs"


class Coupled(nn.Module):
    """Layers around operations that need all rows at once."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a loss."""
        x = x + reduce_from(self.down(self.up(copy_to(x)).relu()))
        x = x.cumsum(0) + x.flip(1)
        x = x - reduce_from(self.down(self.up(copy_to(x)).relu()))
        return (x.square() / 3.0).mean()


def _tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (B, S), generator=torch.Generator().manual_seed(seed))


def _sequence_parallel(dim: int) -> tuple[Any, ...]:
    from tests.rules.test_dealt import model

    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 4), (4,), (4, 24), (8, 4), (4, 6), (6, 4)]
    weights = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    tokens = torch.randint(0, 16, (1, 8) if dim else (8, 1), generator=generator)
    return (model(dim), tokens, *weights)


def _experts() -> tuple[Any, ...]:
    from tests.rules.test_surface_experts import Router, batch, load_balancing

    return Router(load_balancing), batch()


PROGRAMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "gpt": lambda: (GPT(Style(dropout=0.1, layers=1)), _tokens(), _tokens(1)),
    "llama": lambda: (Llama(LlamaStyle(layers=1)), _tokens(), _tokens(1)),
    "checkpointed": lambda: (
        GPT(Style(layers=1, checkpointed=True, manual_attention=True)), _tokens(), _tokens(1)
    ),
    "sequence parallel": lambda: _sequence_parallel(0),
    "causal tokens": lambda: _sequence_parallel(1),
    "experts": _experts,
    "coupled": lambda: (Coupled(), torch.randn(B, S, D)),
}  # fmt: skip


def cases(names: list[str] | None = None) -> list[Case]:
    """Capture and rewrite the programs with these names; all if there are none."""
    fake_group()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return [_case(name) for name in names or (*PROGRAMS, *token_cases.CASES)]
    finally:
        torch.set_default_dtype(default)


def _case(name: str) -> Case:
    torch.manual_seed(0)
    if name in token_cases.CASES:
        return Case(name, *token_cases.CASES[name]())
    graph = capture(*PROGRAMS[name]()).graph
    plan = infer_cut(graph, 2)
    if not isinstance(plan, CutPlan):  # it would not pay
        plan = infer_cut(graph, 2, {graph.find_nodes(op="placeholder")[0]: 0})
    assert isinstance(plan, CutPlan), plan
    before = read_graph(graph)
    witness = slice_graph(graph, plan).witness
    return Case(name, before, read_graph(graph), witness)


def mutant(case: Case, change: Change, seed: int) -> tuple[Graph, Witness] | None:
    """Return a case with one change; ``None`` if there is no place for it."""
    edit = Edit(case.before, case.after, case.witness, seed)
    try:
        return (edit.graph(), edit.witness()) if change(edit) else None
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None  # such a place is of another form


def judged(case: Case, graph: Graph, witness: Witness, memory: Memory) -> Established | str:
    """Return what the checker establishes about a mutant, or why it refuses it."""
    try:
        return check(case.before, graph, witness, memory)
    except NotEstablished as problem:
        return str(problem)


def changes_values(case: Case, graph: Graph, done: Established) -> bool:
    """Whether a result differs, with random inputs on two ranks.

    Inputs are equal on all ranks, and results in the sum over the ranks, if the checker took them
    to be.
    """
    torch.manual_seed(0)
    given: dict[str, list[Any]] = {}
    for op in case.before.operations.values():
        if op.target in (INPUT, CONSTANT) and isinstance(op.value, Tensor):
            given[op.name] = [_random(op.value) for _ in range(RANKS)]
    for name in done.equal_on_ranks:
        given[name] = given[name][:1] * RANKS
    # Not the graph before the pass: what it draws at random is not drawn by the slice here.
    right, made = _outputs(case.after, given), _outputs(graph, given)
    for place in range(len(right)):
        if any(said.startswith(f"result {place} ") for said in done.assumed):
            right[place], made[place] = right[place].sum(0), made[place].sum(0)
    return not _close(right, made)


def _random(value: Tensor) -> torch.Tensor:
    dtype = getattr(torch, value.dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, 2, value.shape).to(dtype)
    return torch.randn(value.shape, dtype=torch.float64)


def _outputs(graph: Graph, given: dict[str, list[Any]]) -> list[torch.Tensor]:
    torch.manual_seed(1)  # both graphs draw the same seeds
    env = dict(given)
    for op in graph.operations.values():
        if op.name not in env:
            run([op], env, graph, RANKS)
    none = torch.zeros(RANKS)
    return [torch.stack(env[x]) if isinstance(x, str) else none for x in graph.outputs]


def _close(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(_near, one, other))


def _near(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape:
        return False
    x, y = x.double(), y.double()
    return bool((x - y).abs().max() <= 1e-9 * (1 + x.abs().max())) if x.numel() else True


def table(found: list[Case], each: int) -> list[Row]:
    """Apply every kind of fault ``each`` times, and return what became of them."""
    memory, rows = Memory(), []
    for case in found:
        assert isinstance(judged(case, case.after, case.witness, memory), Established), case.name
    for number, (kind, change) in enumerate(FAULTS.items()):
        row = Row(kind)
        rows.append(row)
        choose = random.Random(number)
        seen: set[Any] = set()
        for seed in range(20 * each):
            if row.mutants == each:
                break
            case = choose.choice(found)
            made = mutant(case, change, 1000 * number + seed)
            if made is None or (identity := _identity(case, *made)) in seen:
                continue
            seen.add(identity)
            _count(row, case, made, memory, seed)
        row.harmless = _harmless(found, HARMLESS[kind], number, memory)
    return rows


def _identity(case: Case, graph: Graph, witness: Witness) -> Any:
    """What tells a mutant from others: what it changes."""
    old = case.after.operations
    changed = [op for op in graph.operations.values() if old.get(op.name) != op]
    rest = tuple(sorted(set(old) - set(graph.operations)))
    claims = repr(witness.claims) if witness != case.witness else ""
    return case.name, repr(changed), rest, graph.outputs, claims


def _count(row: Row, case: Case, made: tuple[Graph, Witness], memory: Memory, seed: int) -> None:
    row.mutants += 1
    done = judged(case, *made, memory)
    if isinstance(done, str):
        row.rejected += 1
        return
    try:
        harmless = not changes_values(case, made[0], done)
    except Unknown:
        harmless = False
    if harmless:
        row.accepted_harmless += 1
    else:
        row.missed.append(f"{case.name}, seed {seed}")


def _harmless(found: list[Case], change: Change, number: int, memory: Memory) -> str:
    for seed in range(40):
        case = found[(number + seed) % len(found)]
        made = mutant(case, change, seed)
        if made is not None:
            done = judged(case, *made, memory)
            return f"refused: {done}" if isinstance(done, str) else "accepted"
    return Row.harmless


def main() -> int:
    """Make the mutants and print the table; 1 if one was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=24, help="how many mutants of each kind")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = table(cases(), args.each)
    for row in rows:
        print(f"{row.mutants:4} {row.rejected:4} {row.accepted_harmless:4}  {row.kind}")
        print(f"                harmless change: {row.harmless}")
        for one in row.missed:
            print(f"                MISSED: {one}")
    mutants, rejected = (sum(getattr(r, x) for r in rows) for x in ("mutants", "rejected"))
    print(f"{len(rows)} kinds, {mutants} mutants, {rejected} rejected")
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else []
        others = [row for row in known if row["kind"].startswith(PREFIX)]
        made = [*map(vars, rows), *others]
        args.json.write_text(json.dumps(made, indent=1) + "\n")
    return int(any(row.missed for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
