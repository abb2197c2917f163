"""Our custom operators."""
