"""Processes and files on this machine."""
