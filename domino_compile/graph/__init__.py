"""Nodes of an FX graph: collectives, slice tags, what a node costs nothing for, new nodes."""
