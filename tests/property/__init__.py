"""Random tensor-parallel programs, cut against uncut."""
