"""The graph-to-graph passes and nothing else; imported as `domino_compile.passes`."""
