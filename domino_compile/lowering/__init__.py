"""Lowers the rewritten graphs: Inductor with its settings, or the eager lowering."""
