"""Measured link tables: the time of one collective by payload."""
