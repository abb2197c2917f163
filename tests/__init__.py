"""Tests of domino_compile."""
