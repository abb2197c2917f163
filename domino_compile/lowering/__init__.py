"""What runs the rewritten graphs: Inductor's settings, and the eager lowering."""
