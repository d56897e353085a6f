"""Listeners to what the core reports: Prometheus and the log."""
