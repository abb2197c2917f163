"""FSDP2 around tensor parallelism, 2 x 2: FSDP's all-gathers stay outside the compiled block.

torchrun --nproc-per-node 4 examples/fsdp_tp.py
python examples/fsdp_tp.py                                     (starts 4 ranks itself)
"""

from _launch import compare, run, tokens, train
from dtensor_tp import GPT, LENGTH, PLAN, VOCABULARY
from torch import manual_seed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module


def sharded(mesh: DeviceMesh, *, compiled: bool) -> nn.Module:
    manual_seed(0)
    model = GPT()
    parallelize_module(model.block, mesh["tp"], PLAN)
    if compiled:
        model.block.compile(backend="domino", options={"slices": 2})
    fully_shard(model.block, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def main(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
    rows = slice(4 * mesh.get_local_rank("dp"), 4 * mesh.get_local_rank("dp") + 4)
    batches = [
        (text[rows], following[rows]) for text, following in tokens(3, (8, LENGTH), VOCABULARY)
    ]
    uncut = train(sharded(mesh, compiled=False), batches)
    compare(uncut, train(sharded(mesh, compiled=True), batches))


if __name__ == "__main__":
    run(main, ranks=4)
