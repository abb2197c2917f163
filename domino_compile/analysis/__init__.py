"""Questions asked of a graph (collective sites, axis states); answers are data, no graph is written."""
