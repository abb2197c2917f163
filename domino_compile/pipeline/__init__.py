"""The passes of one compile and their order, independent of the lowering."""
