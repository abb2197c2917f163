"""The custom operators of this package."""
