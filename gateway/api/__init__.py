"""Everything that knows our own HTTP API."""
