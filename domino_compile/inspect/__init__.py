"""Dumps and reports that show what was found, planned and done."""
