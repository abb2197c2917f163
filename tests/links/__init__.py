"""Tests of domino_compile.links."""
