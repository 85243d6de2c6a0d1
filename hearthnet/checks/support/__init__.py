"""Support: safe repairs, and a diagnostic bundle that can be shared."""
