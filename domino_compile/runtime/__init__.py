"""Wrappers of a compiled program: the guard, the watch, and handles of asynchronous work."""
