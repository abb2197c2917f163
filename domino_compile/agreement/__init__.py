"""What the ranks of a process group agree on while they compile."""
