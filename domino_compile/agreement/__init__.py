"""Agreements between the ranks of a process group while they compile."""
