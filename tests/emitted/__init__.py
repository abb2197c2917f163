"""What Inductor finally emits: read back from the generated code and held against the plan."""
