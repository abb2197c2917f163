"""Processes and files of this machine."""
