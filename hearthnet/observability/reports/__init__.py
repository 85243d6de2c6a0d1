"""Keeps the doctor's earlier reports, and compares them."""
