"""Overlap tensor-parallel communication with compute, in the compiler.

`torch.compile(model, backend="domino")` finds the backend without an import of this package.
"""
