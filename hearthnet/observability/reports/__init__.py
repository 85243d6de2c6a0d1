"""The doctor's earlier reports, and how they compare."""
