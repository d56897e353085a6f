"""Everything that knows the HTTP API of an Infinity server."""
