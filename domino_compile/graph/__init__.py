"""Nodes of an FX graph: collectives, slice tags, free nodes and new nodes."""
