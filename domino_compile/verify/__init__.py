"""Checks of rewritten programs that trust nothing of what made them."""
