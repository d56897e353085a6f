"""Starts and watches local Infinity servers."""
