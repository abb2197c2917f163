"""Measuring what overlap brings: variants of one training step, in one process, in turn."""
