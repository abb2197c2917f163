"""Which of Inductor's caches tests use."""

#: Graphs do not come from a cache, kernels do: environment of the tests and of what they start.
CACHES = {
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
}
