"""Real ranks: several gloo processes train tensor-parallel models, cut and uncut."""
