"""The time of a whole step of a public job, from the work of one layer and a device's rates.

::

    step      = micro-batches x (1 + bubble) x stage + data parallel + optimizer
    stage     = the longer of: all its layers; one layer fewer, and the head (with pipeline stages)
    bubble    = (stages - 1) / (virtual stages x micro-batches), as interleaved 1F1B leaves it
    layer     = products + attention + fused kernels + launches + what is exposed of TP

Every rule below is fixed before a prediction is compared; nothing but ``Rates.clock`` is ever
fitted, and that only to rows without tensor parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmarks.public_capture import LINK, Shape, Terms, base_rates
from domino_compile.cost.rates import DeviceRates, rates_named
from domino_compile.links import LinkTable, load_link
from domino_compile.tools.bench.shapes import ModelShape, shape_of

Row = dict[str, Any]
#: Tensor cores multiply fp8 twice as fast as bf16 (data sheets of the H100, B200 and GB200).
FP8 = 2.0
#: What a cast to fp8 moves of each element: read for the largest value (2) and again (2), written
#: once as it is and once transposed, because Hopper multiplies only one layout in fp8.
CAST_BYTES = 6
#: The bytes that a head moves of each logit, beside its products: a bf16 logit is written, read
#: twice by the softmax, read again by its backward, which writes a gradient.
LOGIT_BYTES = 10
#: What AdamW moves of each parameter: float32 weight, gradient and two moments in, three out.
ADAM_BYTES = 28
#: A network card of 400 Gbit/s for each GPU.
NETWORK_GB_S = 50.0


@dataclass(frozen=True)
class Rates:
    """What a system of a public table computes and moves.

    Attributes:
        name: the system, in words.
        base: the rates of the cost model's table that it starts from.
        clock: products and attention relative to ``base``.
        memory: memory's rate relative to ``base``.
        wire: NVLink's rate relative to the H100's.
        domain: the GPUs that NVLink connects.
        rule: where the two factors come from.
    """

    name: str
    base: str
    clock: float
    memory: float
    wire: float
    domain: int
    rule: str

    @property
    def device(self) -> DeviceRates:
        """The rates of ``base``."""
        found = rates_named(self.base)
        assert found is not None
        return found


#: What bf16 and fp8 rates are, before any calibration.
SYSTEMS = {
    "grand-teton-h100": Rates(
        "H100 96 GB HBM2e, 500 W", "H100", (500 / 640) ** (1 / 3), 2.4 / 3.35, 1.0, 8,
        "the table's H100 with 2.4 instead of 3.35 TB/s; power grows with the third power of the "
        "clock, and an H200 in a step runs at 640 W (benchmark notebook, On real links)",
    ),
    "dgx-h100": Rates("DGX H100", "H100", 1.0, 1.0, 1.0, 8, "the table's H100"),
    "dgx-b200": Rates("DGX B200", "B200", 1.0, 1.0, 2.0, 8, "the table's B200; NVLink 5"),
    "dgx-gb200": Rates(
        "GB200 NVL72", "B200", 2500 / 2250, 1.0, 2.0, 72, "the table's B200 by the data sheets' fp8"
    ),
    "dgx-gb300": Rates(
        "GB300 NVL72", "B200", 2500 / 2250, 1.0, 2.0, 72, "the table's B200 by the data sheets' fp8"
    ),
}  # fmt: skip


def shape_in(row: Row) -> Shape:
    """Return the capture that a row needs; context parallel ranks divide the tokens."""
    return Shape(row["model"], row["tp"], row["mbs"], row["seq"] // row["cp"], row["ac"])


def step_terms(row: Row, layer: Terms, end: Terms, rates: Rates) -> dict[str, float]:
    """Return what a step consists of, in milliseconds, by name; the sum is the step.

    Args:
        row: a row of ``public_rows.json``.
        layer: the work of one layer.
        end: the work of the end of the model.
        rates: of the row's system.
    """
    blocks = scaled(row, layer, rates)
    ends = _ends(row, end, rates)
    layers = shape_of(row["model"]).layers
    stage = -(-layers // row["pp"])
    parts = {name: time * stage for name, time in blocks.items()}
    last = {name: time * (stage - 1) for name, time in blocks.items()} | ends
    if row["pp"] == 1:
        parts |= ends
    elif sum(last.values()) > sum(parts.values()):
        parts = last
    micro = row["gbs"] // (row["mbs"] * data_ranks(row))
    found = {name: time * micro for name, time in parts.items()}
    found["pipeline bubble"] = sum(parts.values()) * (row["pp"] - 1) / row["vp"]
    found["data parallel"] = _data_parallel(row, layer, sum(blocks.values()), micro, rates)
    found["optimizer"] = _optimizer(row, rates)
    return {name: time / 1e3 for name, time in found.items()}


def data_ranks(row: Row) -> int:
    """Return the ranks that see different rows of the batch."""
    return int(row["gpus"] // (row["tp"] * row["pp"] * row["cp"]))


def scaled(row: Row, layer: Terms, rates: Rates) -> dict[str, float]:
    """Return the terms of one layer for a system, in microseconds."""
    base, mine = base_rates(), rates.device
    fp8 = 1.0 if row["precision"] == "bf16" else FP8
    products = base["half_tflops"] / (mine.half_tflops * rates.clock * fp8)
    attention = base["attention_forward_tflops"] / (mine.attention_forward_tflops * rates.clock)
    moved = base["memory_gb_s"] * base["fused_share"] / _moved_gb_s(rates)
    learnt = 2 / 3 if row["task"] == "lora" else 1.0  # no gradients of frozen weights
    kernels = layer.products + layer.attentions + layer.fused
    found = {
        "products": layer.products_us * products * learnt,
        "attention": layer.attention_us * attention * row["cp"],
        "fused kernels": layer.fused_us * moved,
        "launches": kernels * mine.launch_us,
        "exposed TP": _exposed(row, layer, rates),
    }
    if fp8 > 1:
        # Each tensor is an operand of two products, and cast once.
        found["casts to fp8"] = layer.operands / 2 * CAST_BYTES / (_moved_gb_s(rates) * 1e3)
    return found


def _moved_gb_s(rates: Rates) -> float:
    return rates.device.memory_gb_s * rates.device.fused_share * rates.memory


def _exposed(row: Row, layer: Terms, rates: Rates) -> float:
    """Return what a layer's collectives cost, in microseconds.

    Collectives of a plain run are exposed completely. With tensorwise float8 torchtitan gathers
    float8, half of the bytes. Where DTensor divides the tokens, the second dimension, each payload
    is copied once more. Transformer Engine's collectives are divided into one chunk for each rank
    and run under the product beside them, except for one chunk; they slow it down by the
    multiprocessors that they hold.
    """
    gathers = layer.gathers_us / (2 if row["float8_gathers"] else 1)
    wire = (gathers + layer.scatters_us) / rates.wire
    if row["tp_overlap"]:
        hidden = wire * (1 - 1 / row["tp"])
        return wire - hidden + _held(hidden, row["tp"], rates)
    copied = 2 * layer.wire_bytes / (_moved_gb_s(rates) * 1e3) if row["mbs"] > 1 else 0.0
    return wire + copied


def _held(hidden_us: float, ranks: int, rates: Rates) -> float:
    """Return how much longer compute takes because of what is in flight beside it."""
    held = rates.device.held_by(table(ranks).ctas)
    return hidden_us * held / (rates.device.multiprocessors - held)


def _ends(row: Row, end: Terms, rates: Rates) -> dict[str, float]:
    """Return the time of the head and of the norm in front of it, by name."""
    shape = shape_of(row["model"])
    tokens = row["mbs"] * row["seq"] / row["cp"]
    logits = tokens * shape.vocabulary / row["tp"]
    passes = 2 if row["task"] == "lora" else 3
    operations = 2 * passes * logits * shape.hidden
    device = rates.device
    norm = scaled({**row, "precision": "bf16"}, end, rates)
    product = operations / (device.half_tflops * rates.clock * 1e6)
    return {
        "head": product + logits * LOGIT_BYTES / (_moved_gb_s(rates) * 1e3) + sum(norm.values())
    }


def parameters(shape: ModelShape) -> float:
    """Return the parameters of a model's layers."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return float(shape.layers * (attention + 3 * shape.hidden * shape.ffn))


def _data_parallel(row: Row, layer: Terms, layer_us: float, micro: float, rates: Rates) -> float:
    """Return what data parallelism costs in a step, in microseconds.

    FSDP gathers each layer's bf16 weights for forward and for backward and scatters its float32
    gradients, all hidden behind other layers if these take longer; what is in flight takes its
    blocks' multiprocessors from them. Without FSDP only gradients and weights of the step's end
    travel, of which one layer's are exposed.
    """
    ranks = row["fsdp"]
    if ranks == 1:
        return 0.0
    shape = shape_of(row["model"])
    weights = 2 * parameters(shape) / shape.layers / row["tp"]
    gather, scatter = (_across_us(row, kind, weights * size, rates) for kind, size in
                       (("all_gather", 1.0), ("reduce_scatter", 2.0)))  # fmt: skip
    if row["pp"] > 1 or not _shards_weights(row):
        return gather + scatter
    in_flight = 2 * gather + scatter
    hidden = min(in_flight, layer_us)
    return micro * shape.layers * (_held(hidden, ranks, rates) + in_flight - hidden)


def _shards_weights(row: Row) -> bool:
    return row["source"] != "bridge" or "FSDP" in row["label"]


@cache
def table(ranks: int) -> LinkTable:
    """Return the link table inside a machine for a number of ranks."""
    return load_link(LINK).scaled_to(ranks)


def _across_us(row: Row, kind: str, nbytes: float, rates: Rates) -> float:
    """Return the time of a collective among the ranks of data parallelism, in microseconds.

    Those that NVLink connects use it, and share their network cards for what comes from others.
    Tensor and context parallel ranks are neighbours.
    """
    ranks = row["fsdp"]
    near = max(1, min(ranks, rates.domain // (row["tp"] * row["cp"])))
    inside = table(near).time_us(kind, round(nbytes)) / rates.wire if near > 1 else 0.0
    across = nbytes * (1 - near / ranks) / near / (NETWORK_GB_S * 1e3)
    return max(inside, across)


def _optimizer(row: Row, rates: Rates) -> float:
    """Return the time in which AdamW updates this rank's part, in microseconds."""
    if row["task"] == "lora":
        return 0.0
    shape = shape_of(row["model"])
    both_ends = 2 * shape.hidden * shape.vocabulary
    share = (parameters(shape) / row["pp"] + both_ends) / row["tp"] / row["fsdp"]
    return share * ADAM_BYTES / (rates.device.memory_gb_s * rates.memory * 1e3)


def tokens_per_s(row: Row, step_ms: float) -> float:
    """Return the throughput of one GPU."""
    return float(row["gbs"] * row["seq"] / row["gpus"] / step_ms * 1e3)


def step_ms(row: Row, throughput: float) -> float:
    """Return the time of a step at a throughput of one GPU, in milliseconds."""
    return float(row["gbs"] * row["seq"] / row["gpus"] / throughput * 1e3)


def calibrated(rates: Rates, clock: float) -> Rates:
    """Return the rates with another clock."""
    return replace(rates, clock=clock)
