"""One small model for each way people write tensor parallelism; each returns its loss.

A model's name is its *form*. All ranks build the same whole weights and keep their own part: the
ranks' models together are one model, whatever the number of ranks. Lines that call a collective, or
whose layout makes DTensor call one, are marked ``# <tag>``; tests look for them in reports.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

WIDTH, HEADS, LENGTH, VOCABULARY = 16, 4, 4, 32
#: ``DOMINO_TEST_DEVICE=cuda`` trains on GPUs and NCCL instead, a GPU for every rank.
DEVICE = os.environ.get("DOMINO_TEST_DEVICE", "cpu")

Tensor = torch.Tensor


def weight(rows: int, columns: int) -> Tensor:
    """A whole weight, the same on every rank (the caller seeds)."""
    return torch.randn(rows, columns) / columns**0.5


def part(whole: Tensor, dim: int) -> nn.Parameter:
    """This rank's part of a weight."""
    return nn.Parameter(whole.chunk(dist.get_world_size(), dim)[dist.get_rank()].contiguous())


class HandMade(nn.Module):
    """Two layers of a block that has its weights as plain parameters."""

    block: Callable[..., Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(self.layer() for _ in range(2))

    def layer(self) -> nn.Module:
        layer = nn.Module()
        layer.norm = nn.LayerNorm(WIDTH)
        layer.up = part(weight(4 * WIDTH, WIDTH), 0)
        layer.down = part(weight(WIDTH, 4 * WIDTH), 1)
        return layer

    def forward(self, tokens: Tensor, following: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + self.block(layer, layer.norm(x))
        logits = x @ self.embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())


class Funcol(HandMade):
    """Every rank computes the same loss, and an all-reduce's gradient adds them all up."""

    def block(self, layer: Any, x: Tensor) -> Tensor:
        y = F.gelu(x @ layer.up.T) @ layer.down.T
        return funcol.all_reduce(y, "sum", dist.group.WORLD)  # <forward>

    def forward(self, tokens: Tensor, following: Tensor) -> Tensor:
        return super().forward(tokens, following) / dist.get_world_size()


class InPlace(Funcol):
    def block(self, layer: Any, x: Tensor) -> Tensor:
        y = F.gelu(x @ layer.up.T) @ layer.down.T
        dist.all_reduce(y, group=dist.group.WORLD)  # <in place>
        return y


class Copy(torch.autograd.Function):
    """Megatron's f: the identity; its gradient is summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=dist.group.WORLD)  # <f>
        return gradient


class Reduce(torch.autograd.Function):
    """Megatron's g: the sum; its gradient is passed on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x, group=dist.group.WORLD)  # <g>
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Megatron(HandMade):
    def block(self, layer: Any, x: Tensor) -> Tensor:
        y = F.gelu(F.linear(Copy.apply(x), layer.up))
        return Reduce.apply(F.linear(y, layer.down))


class Average(torch.autograd.Function):
    """The identity; its gradient is averaged over a group, as data parallelism does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return funcol.all_reduce(gradient, "avg", ctx.group), None  # <data parallel>


class TwoGroups(HandMade):
    """Tensor parallelism in pairs of ranks, data parallelism over the pairs."""

    def __init__(self) -> None:
        self.mesh = init_device_mesh(
            DEVICE, (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "tensor")
        )
        self.tensor, self.data = self.mesh.get_group("tensor"), self.mesh.get_group("data")
        super().__init__()

    def layer(self) -> nn.Module:
        layer = nn.Module()
        layer.norm = nn.LayerNorm(WIDTH)
        mine = self.mesh.get_local_rank("tensor")
        layer.up = nn.Parameter(weight(4 * WIDTH, WIDTH).chunk(2, 0)[mine].contiguous())
        layer.down = nn.Parameter(weight(WIDTH, 4 * WIDTH).chunk(2, 1)[mine].contiguous())
        return layer

    def block(self, layer: Any, x: Tensor) -> Tensor:
        up, down = (Average.apply(w, self.data) for w in (layer.up, layer.down))
        y = F.gelu(x @ up.T) @ down.T
        return funcol.all_reduce(y, "sum", self.tensor)  # <tensor parallel>

    def forward(self, tokens: Tensor, following: Tensor) -> Tensor:
        return super().forward(tokens, following) / 2


class Attention(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_first:
            x = x.transpose(0, 1)
        q, k, v = (
            layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)  # <q k v>
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).flatten(2)
        if not self.batch_first:
            y = y.transpose(0, 1)
        return self.out(y)  # <out>


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(x))  # <up>
        return self.down(y)  # <down>


class Plain(nn.Module):
    """A GPT of one block for one device; DTensor makes it parallel."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention, self.mlp = Attention(batch_first), MLP()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, following: Tensor) -> Tensor:
        if not self.batch_first:
            tokens, following = tokens.t(), following.t()
        x = self.embedding(tokens)  # <embedding>
        x = x + self.attention(self.norm1(x))  # <attention>
        x = x + self.mlp(self.norm2(x))  # <mlp>
        logits = self.head(self.norm3(x))  # <head>
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def mesh() -> DeviceMesh:
    return init_device_mesh(DEVICE, (dist.get_world_size(),))


def dtensor() -> nn.Module:
    """Colwise and Rowwise."""
    columns = ("attention.q", "attention.k", "attention.v", "mlp.up")
    plan: dict[str, Any] = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in ("attention.out", "mlp.down")}
    return parallelize_module(Plain().to(DEVICE), mesh(), plan)


def sequence_parallel(dim: int) -> nn.Module:
    """Between the linears each rank holds a part of the sequence, dimension ``dim``."""
    whole, piece = Replicate(), Shard(dim)
    gather = PrepareModuleInput(input_layouts=(piece,), desired_input_layouts=(whole,))
    plan: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=whole, output_layouts=piece),
        "attention": gather,
        "mlp": gather,
        "head": ColwiseParallel(input_layouts=piece, output_layouts=whole),
    }
    plan |= {f"norm{i}": SequenceParallel(sequence_dim=dim) for i in (1, 2, 3)}
    plan |= {f"attention.{name}": ColwiseParallel() for name in "qkv"}
    plan["mlp.up"] = ColwiseParallel()
    plan |= {n: RowwiseParallel(output_layouts=piece) for n in ("attention.out", "mlp.down")}
    return parallelize_module(Plain(batch_first=dim == 1).to(DEVICE), mesh(), plan)


FORMS: dict[str, Callable[[], nn.Module]] = {
    "funcol": Funcol,
    "in_place": InPlace,
    "megatron": Megatron,
    "two_groups": TwoGroups,
    "dtensor": dtensor,
    "sequence_parallel_0": lambda: sequence_parallel(0),
    "sequence_parallel_1": lambda: sequence_parallel(1),
}


def build(form: str, dtype: torch.dtype) -> nn.Module:
    """The model of a form, the same in every call."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return FORMS[form]().to(DEVICE)
    finally:
        torch.set_default_dtype(before)
