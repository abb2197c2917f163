"""Overlap tensor-parallel communication with compute, in the compiler: `torch.compile(model, backend="domino")`."""
