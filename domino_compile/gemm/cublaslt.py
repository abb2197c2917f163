"""Matrix products through cuBLASLt's C interface, with an algorithm that the caller chooses.

torch offers no way to choose the algorithm of a product. The C interface does: it lists algorithms
for a shape, including those for fewer multiprocessors than the device has, and runs a given one.
Types, constants and their meaning are documented in NVIDIA, *cuBLAS library user guide*, "Using the
cuBLASLt API" (``cublasLtMatmul``, ``cublasLtMatmulAlgoGetHeuristic``).

cuBLASLt is column-major: ``C = A B`` of row-major tensors is computed as ``C' = B' A'``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

#: The libraries to look for; a torch that is built for CUDA has already loaded one of them.
NAMES = ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.14", "libcublasLt.so")
#: The workspace that an algorithm may use: cuBLASLt's recommendation for Hopper.
WORKSPACE_BYTES = 32 << 20
#: The number of algorithms to ask for.
LISTED = 32

_COMPUTE_32F = 68
_R_32F = 0
_TYPES = {torch.float16: 2, torch.bfloat16: 14}
_DESC_TRANSA, _DESC_TRANSB, _DESC_SM_COUNT_TARGET = 3, 4, 15
_DESC_EPILOGUE, _DESC_BIAS_POINTER = 7, 8
_EPILOGUE_BIAS = 4
_PREF_WORKSPACE, _PREF_REDUCTION = 1, 3
_NOT_SUPPORTED = 15
#: Partial sums are added in the compute type and in a fixed order: neither in place with atomic
#: additions, nor in the output's type.
_REDUCTIONS = 2


#: A function that computes a product, given the factors, the result's tensor and the added value.
Run: TypeAlias = Callable[..., None]


class LtError(RuntimeError):
    """The error that cuBLASLt is missing or refuses a product.

    Attributes:
        status: The library's status; 0 if there is none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Algorithm(ctypes.Structure):
    _fields_ = [("data", c_uint64 * 8)]


class _Listed(ctypes.Structure):
    _fields_ = [
        ("algorithm", _Algorithm),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


@functools.cache
def library() -> Any:
    """Return the C library.

    Raises:
        LtError: The library is missing, as on a CPU or another vendor's device.
    """
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise LtError("cuBLASLt needs an NVIDIA GPU and a torch built for CUDA")
    torch.cuda.init()
    for name in NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise LtError(f"none of {', '.join(NAMES)} can be loaded")


def version() -> int:
    """Return the library's version; an algorithm is valid for one version only."""
    function = library().cublasLtGetVersion
    function.restype = c_size_t
    return int(function())


def _call(name: str, *args: Any) -> None:
    status = getattr(library(), name)(*args)
    if status:
        raise LtError(f"{name}: status {status}", status)


@functools.cache
def _handle(device: int) -> c_void_p:
    handle = c_void_p()
    with torch.cuda.device(device):
        _call("cublasLtCreate", byref(handle))
    return handle


@dataclass(frozen=True)
class MatrixLayout:
    """A column-major matrix in memory.

    Attributes:
        rows: The number of rows; a column's elements are adjacent.
        columns: The number of columns.
        ld: The leading dimension: the number of elements from one column to the next.
        transposed: Whether the product uses its transpose.
    """

    rows: int
    columns: int
    ld: int
    transposed: bool


@dataclass(frozen=True)
class Problem:
    """A product ``(M, K) x (K, N)``, perhaps with an ``(M, N)`` matrix or a row of ``N`` added.

    Attributes:
        dtype: The type of all matrices; sums are kept in float32.
        m: The number of rows of the result.
        n: The number of columns of the result.
        k: The contracted extent.
        left: The layout of the first factor.
        right: The layout of the second factor.
        added: The number of elements from one row of the added ``(M, N)`` matrix to the next; 0 if
            there is none.
        bias: Whether a row of ``N`` is added.
    """

    dtype: torch.dtype
    m: int
    n: int
    k: int
    left: MatrixLayout
    right: MatrixLayout
    added: int = 0
    bias: bool = False

    @staticmethod
    def of(
        left: torch.Tensor, right: torch.Tensor, added: torch.Tensor | None = None
    ) -> Problem | None:
        """Describe the product of two tensors; ``None`` if cuBLASLt cannot compute it."""
        if left.dtype not in _TYPES or left.dtype != right.dtype:
            return None
        first, second = _layout_of(left), _layout_of(right)
        if first is None or second is None:
            return None
        (m, k), n = left.shape, right.shape[1]
        if added is None:
            return Problem(left.dtype, m, n, k, first, second)
        if added.dtype != left.dtype or added.stride(-1) != 1:
            return None
        if added.shape == (n,):
            return Problem(left.dtype, m, n, k, first, second, bias=True)
        row = added.stride(0)
        if added.shape != (m, n) or row < n:
            return None
        return Problem(left.dtype, m, n, k, first, second, row)


def _layout_of(matrix: torch.Tensor) -> MatrixLayout | None:
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        return None
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    if across == 1 and down >= columns:
        return MatrixLayout(columns, rows, down, False)
    if down == 1 and across >= rows:
        return MatrixLayout(rows, columns, across, True)
    return None


@dataclass(frozen=True)
class Algorithm:
    """One of cuBLASLt's algorithms for a product; valid for one version of the library.

    Attributes:
        multiprocessors: The number of multiprocessors it was requested for; 0 for all.
        data: The library's opaque description.
        workspace_bytes: The workspace that it needs.
    """

    multiprocessors: int
    data: tuple[int, ...]
    workspace_bytes: int


class PreparedProduct:
    """A product that is set up to list its algorithms and to run one of them.

    Args:
        problem: The product to compute.
        device: The index of the GPU.
        multiprocessors: The number of multiprocessors it may use; 0 for all.

    Raises:
        LtError: cuBLASLt refuses the product.
    """

    def __init__(self, problem: Problem, device: int, multiprocessors: int = 0) -> None:
        self.problem, self.device, self.multiprocessors = problem, device, multiprocessors
        kind = _TYPES[problem.dtype]
        self._operation = c_void_p()
        _call("cublasLtMatmulDescCreate", byref(self._operation), _COMPUTE_32F, _R_32F)
        self._set(_DESC_TRANSA, c_int32(int(problem.right.transposed)))
        self._set(_DESC_TRANSB, c_int32(int(problem.left.transposed)))
        self._set(_DESC_SM_COUNT_TARGET, c_int32(multiprocessors))
        if problem.bias:
            self._set(_DESC_EPILOGUE, c_int32(_EPILOGUE_BIAS))
        self._a, self._b = (_descriptor(kind, x) for x in (problem.right, problem.left))
        self._c = _descriptor(
            kind, MatrixLayout(problem.n, problem.m, problem.added or problem.n, False)
        )
        self._d = _descriptor(kind, MatrixLayout(problem.n, problem.m, problem.n, False))
        self._one, self._beta = c_float(1.0), c_float(1.0 if problem.added else 0.0)

    def _set(self, attribute: int, value: Any) -> None:
        _call(
            *("cublasLtMatmulDescSetAttribute", self._operation, attribute),
            *(byref(value), c_size_t(ctypes.sizeof(value))),
        )

    def algorithms(self, workspace_bytes: int = WORKSPACE_BYTES) -> list[Algorithm]:
        """Return the algorithms that cuBLASLt proposes, best first.

        On Hopper most algorithms keep a counter in the workspace, from which thread blocks take
        their next tile. Without a workspace (0) the same algorithms are listed in a variant that
        divides the tiles beforehand.

        Args:
            workspace_bytes: The workspace that an algorithm may use.
        """
        preference = c_void_p()
        _call("cublasLtMatmulPreferenceCreate", byref(preference))
        try:
            for attribute, value in (
                (_PREF_WORKSPACE, c_uint64(workspace_bytes)),
                (_PREF_REDUCTION, c_uint32(_REDUCTIONS)),
            ):
                _call(
                    *("cublasLtMatmulPreferenceSetAttribute", preference, attribute),
                    *(byref(value), c_size_t(ctypes.sizeof(value))),
                )
            listed, count = (_Listed * LISTED)(), c_int()
            _call(
                *("cublasLtMatmulAlgoGetHeuristic", _handle(self.device), self._operation),
                *(self._a, self._b, self._c, self._d, preference, LISTED, listed, byref(count)),
            )
        except LtError as error:
            if error.status == _NOT_SUPPORTED:
                return []
            raise
        finally:
            library().cublasLtMatmulPreferenceDestroy(preference)
        return [
            Algorithm(self.multiprocessors, tuple(one.algorithm.data), one.workspace_bytes)
            for one in listed[: count.value]
            if one.state == 0
        ]

    def by(self, algorithm: Algorithm) -> Run:
        """Return a function that computes the product by an algorithm, on the current stream.

        The function takes the factors, the contiguous ``(M, N)`` result, and the added value if the
        problem has one. It raises ``LtError`` if cuBLASLt refuses the product.
        """
        chosen = _Algorithm((c_uint64 * 8)(*algorithm.data))
        return functools.partial(self._run, chosen, algorithm.workspace_bytes)

    def _run(
        self,
        chosen: _Algorithm,
        workspace_bytes: int,
        left: torch.Tensor,
        right: torch.Tensor,
        out: torch.Tensor,
        added: torch.Tensor | None = None,
    ) -> None:
        whole = out
        if self.problem.bias:
            assert added is not None
            self._set(_DESC_BIAS_POINTER, c_void_p(added.data_ptr()))
        elif added is not None:
            whole = added
        scratch = None
        if workspace_bytes:  # from the stream's pool, which a CUDA graph keeps
            scratch = torch.empty(workspace_bytes, dtype=torch.uint8, device=out.device)
        _call(
            *("cublasLtMatmul", _handle(self.device), self._operation, byref(self._one)),
            *(c_void_p(right.data_ptr()), self._a, c_void_p(left.data_ptr()), self._b),
            *(byref(self._beta), c_void_p(whole.data_ptr()), self._c),
            *(c_void_p(out.data_ptr()), self._d, byref(chosen)),
            *(c_void_p(0 if scratch is None else scratch.data_ptr()), c_size_t(workspace_bytes)),
            c_void_p(torch.cuda.current_stream(self.device).cuda_stream),
        )


def _descriptor(kind: int, layout: MatrixLayout) -> c_void_p:
    made = c_void_p()
    _call(
        *("cublasLtMatrixLayoutCreate", byref(made), kind, c_uint64(layout.rows)),
        *(c_uint64(layout.columns), c_int64(layout.ld)),
    )
    return made
