"""Reads the evidence of a run: standard library only, so that it works on any machine with a bare Python."""
