"""A small tensor-parallel model, compiled on a lone rank, and a reader of the generated code."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.nn.functional as F
from torch import nn
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code

import domino_compile
from domino_compile import _compat
from domino_compile.graph.tags import piece_of
from domino_compile.pipeline import emission
from domino_compile.report import CompileReport
from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import Names, OrderCertificate, Promise
from tests.paths import FAST_LINK

HIDDEN, HEADS, SEQ, VOCAB = 32, 2, 8, 48


def fake_world(ranks: int = 2) -> None:
    """A group of which this process is one rank; an all-reduce leaves the value as it is."""
    if not dist.is_initialized():
        _compat.start_fake_group(ranks)


class CopyToTensorParallel(torch.autograd.Function):
    """Identity forward, all-reduce backward (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(grad, "sum", dist.group.WORLD)


class ReduceFromTensorParallel(torch.autograd.Function):
    """All-reduce forward, identity backward (Megatron's g)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return funcol.all_reduce(x, "sum", dist.group.WORLD)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Block(nn.Module):
    """Attention and MLP, each with one all-reduce in forward and one in backward; dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN // 2)
        self.out = nn.Linear(HIDDEN // 2, HIDDEN)
        self.up = nn.Linear(HIDDEN, 2 * HIDDEN)
        self.down = nn.Linear(2 * HIDDEN, HIDDEN)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, _ = x.shape
        qkv = self.qkv(CopyToTensorParallel.apply(self.norm1(x)))
        q, k, v = (t.view(batch, seq, HEADS, -1).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        a = self.out(a.transpose(1, 2).reshape(batch, seq, -1))
        x = x + F.dropout(ReduceFromTensorParallel.apply(a), self.dropout, self.training)
        h = F.gelu(self.up(CopyToTensorParallel.apply(self.norm2(x))))
        h = ReduceFromTensorParallel.apply(self.down(h))
        return x + F.dropout(h, self.dropout, self.training)


class Model(nn.Module):
    """Embedding, blocks, head and loss."""

    def __init__(self, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class KernelSlices:
    """Collects, per kernel that Inductor makes, the slices of the operations in it."""

    def __init__(self) -> None:
        self.kernels: list[set[int]] = []

    def __call__(self, nodes: list[Any]) -> list[Any]:
        for node in nodes:
            if type(node).__name__ in ("ExternKernelSchedulerNode", "NopKernelSchedulerNode"):
                continue  # one operation or none; the events it comes after count as its origins
            origins = [o for part in node.get_nodes() if part.node for o in part.node.get_origins()]
            self.kernels.append({s for o in origins if (s := piece_of(o)) is not None})
        return nodes

    def uuid(self) -> str:
        return "kernel slices"


def kernels_unbuilt() -> AbstractContextManager[Any]:
    """Kernels do nothing and need no compiler: for code that is read, and memory that is allocated.

    Building kernels is most of the time of a compile.
    """

    def nothing(*_: Any, **__: Any) -> Callable[..., None]:
        return lambda *_: None

    return mock.patch.object(AsyncCompile, "cpp_pybinding", nothing)


@dataclass(frozen=True)
class Checked:
    """What ``check_emitted`` was given for one graph, and what it found."""

    code: str
    promise: Promise
    names: Names
    certificate: OrderCertificate


@contextmanager
def checks_seen() -> Iterator[list[Checked]]:
    """Collect what the check of emitted code is given."""
    seen: list[Checked] = []

    def check(code: str, promise: Promise, names: Names) -> OrderCertificate:
        found = check_emitted(code, promise, names)
        seen.append(Checked(code, promise, names, found))
        return found

    with mock.patch.object(emission, "check_emitted", check):
        yield seen


@dataclass
class Compiled:
    """One compiled training (or inference) step.

    Attributes:
        loss: without a meaning where kernels were not built; likewise the gradients.
        grads: of the parameters by name.
        codes: the generated code of forward and backward.
        report: what the passes did.
        kernels: of every fused kernel the slices it belongs to.
        checked: what the check of the emitted code was given, forward and backward.
    """

    loss: float
    grads: dict[str, torch.Tensor]
    codes: list[str]
    report: CompileReport
    kernels: list[set[int]]
    checked: list[Checked]


def compile_step(
    slices: int,
    *,
    batch: int,
    columns: int = 1,
    training: bool = True,
    layers: int = 2,
    built: bool = False,
) -> Compiled:
    """Compile one step of the model; its numbers mean something if its kernels are ``built``."""
    fake_world()
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(layers)
    tokens = torch.randint(0, VOCAB, (batch, SEQ))
    domino_compile.reset_reports()
    kernels = KernelSlices()
    compiled = torch.compile(
        model,
        backend="domino",
        options={
            "slices": slices,
            "columns": columns,
            "link": FAST_LINK,
            "verify": "on",
            "inductor": {"_post_fusion_custom_pass": kernels},
        },
    )

    def step() -> float:
        torch.manual_seed(1)
        with torch.set_grad_enabled(training):
            loss = compiled(tokens, tokens)
        if training:
            loss.backward()
        return float(loss)

    with nullcontext() if built else kernels_unbuilt(), checks_seen() as checked:
        loss, codes = run_and_get_code(step)
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    (report,) = domino_compile.reports()
    return Compiled(loss, grads, codes, report, kernels.kernels, checked)


LAUNCH = re.compile(
    r"torch\.ops\.(?:_c10d_functional|domino_compile(?=\.all_to_all_tokens))"
    r"\.(\w+?)_?\.default\((.*)"
)
MATMUL = re.compile(r"extern_kernels\.(?:mm|addmm|bmm|baddbmm|domino_mm|domino_addmm)\(")
ATTENTION = re.compile(
    r"= torch\.ops\.(?:aten\._scaled_dot_product\w+\.default\("
    r"|higher_order\.run_\w+_rng_state\(.*torch\.ops\.aten\._scaled_dot_product)"
)
SHAPE = re.compile(r"reinterpret_tensor\(\w+, (\(\d[\d, ]*\))")


def body(code: str) -> Iterator[str]:
    """The statements of the generated wrapper, comments left out."""
    inside = False
    for line in code.splitlines():
        if re.match(r"\s*def (call|partition_\d+)\(", line):
            inside = True
        elif inside and re.match(r"\S", line):
            inside = False
        if inside and not line.strip().startswith("#"):
            yield line.strip()


def events(code: str) -> list[str]:
    """Launches, waits, matrix products and attention, in the order of the generated code."""
    found = []
    for line in body(code):
        if launch := LAUNCH.search(line):
            found.append("wait" if launch.group(1) == "wait_tensor" else "launch")
        elif MATMUL.search(line):
            found.append("matmul")
        elif ATTENTION.search(line):
            found.append("attention")
    return found


def flights(code: str) -> list[int]:
    """For each collective how many matrix products and attentions run while it flies."""
    done, flying, result = 0, {}, []
    for line in body(code):
        if launch := LAUNCH.search(line):
            buffer = re.search(r"buf\d+", launch.group(2))
            assert buffer is not None, line
            if launch.group(1) == "wait_tensor":
                result.append(done - flying.pop(buffer.group()))
            else:
                flying[buffer.group()] = done
        elif MATMUL.search(line) or ATTENTION.search(line):
            done += 1
    assert not flying, "a collective is never waited for"
    return result


def launch_elements(code: str) -> list[int]:
    """The number of elements of each launch, where the code says its shape."""
    found = []
    for line in body(code):
        launch = LAUNCH.search(line)
        if launch and launch.group(1) != "wait_tensor" and (shape := SHAPE.search(launch.group(2))):
            count = 1
            for extent in shape.group(1).strip("()").split(","):
                count *= int(extent) if extent.strip() else 1
            found.append(count)
    return found
