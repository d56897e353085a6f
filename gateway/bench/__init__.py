"""Load on a running gateway or Infinity, and what it meets: `infinity-gateway bench`."""
