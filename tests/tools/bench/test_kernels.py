"""Accounts of kernel traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domino_compile.tools.bench.kernels import Account, Kernel, kernels_of

NAMES = {
    "wire": ["domino_emulated_wire", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgs)"],
    "gemm": [
        "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64",
        "Cijk_Ailk_Bljk_BBS_BH_MT256x256x64",
    ],
    "attention": [
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128>>",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16",
    ],
    "copies": ["Memcpy DtoD (Device -> Device)", "Memset (Device)", "triton_poi_fused_clone_3"],
    "random": ["triton_poi_fused_inductor_random_0", "triton_poi_fused_inductor_seeds_1"],
    "pointwise": ["triton_red_fused_native_layer_norm_add_2", "triton_poi_fused_gelu_clone_5"],
    "other": ["something_else"],
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names]
)
def test_kinds_by_name(kind: str, name: str) -> None:
    assert Kernel(name, 0, 1).kind == kind


def test_what_is_hidden_and_what_is_exposed() -> None:
    account = Account.of(
        [
            Kernel("nvjet_a", 0, 1000),
            Kernel("domino_emulated_wire", 500, 1500),  # half of it under the product
            Kernel("domino_emulated_wire", 1400, 1600),  # on another group's wire
            Kernel("triton_poi_fused_add_0", 1550, 2000),
        ]
    )
    assert account.wire_ms == pytest.approx(1.1)
    assert account.exposed_ms == pytest.approx(0.55)
    assert account.compute_ms == pytest.approx(1.45)
    assert account.parts_ms == pytest.approx({"gemm": 1.0, "pointwise": 0.45})
    assert account.kernels == 2


def test_median_of_accounts() -> None:
    accounts = [Account(x, x / 2, 10 * x, {"gemm": x}, int(x)) for x in (1.0, 5.0, 3.0)]
    accounts[1].parts_ms["copies"] = 1.0
    found = Account.median(accounts)
    assert (found.wire_ms, found.exposed_ms, found.compute_ms, found.kernels) == (3, 1.5, 30, 3)
    assert found.parts_ms == {"gemm": 3.0, "copies": 0.0}


def test_reading_a_trace(tmp_path: Path) -> None:
    events = [
        {"name": "b", "cat": "kernel", "ts": 5, "dur": 2},
        {"name": "launch", "cat": "cuda_runtime", "ts": 0, "dur": 1},
        {"name": "Memcpy DtoD", "cat": "gpu_memcpy", "ts": 1, "dur": 1},
        {"name": "no category"},
        {
            "name": "ncclDevKernel_AllReduce",
            "cat": "kernel",
            "ts": 8,
            "dur": 1,
            "args": {"grid": [24, 1, 1], "stream": 7},
        },
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    assert kernels_of(path) == [
        Kernel("Memcpy DtoD", 1, 2),
        Kernel("b", 5, 7),
        Kernel("ncclDevKernel_AllReduce", 8, 9, group="stream 7", blocks=24),
    ]
