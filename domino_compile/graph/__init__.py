"""Nodes of an FX graph: collectives, slice tags, costs and new nodes."""
