"""Tests of domino_compile.emulate."""
