"""Process groups whose collectives take the time a link table gives (always labelled emulated)."""
