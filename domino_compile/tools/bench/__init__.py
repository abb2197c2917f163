"""Measures the gain from overlap: variants of one training step, alternately in one process."""
