"""Watches this process: stalls, vital signs, crashes, uncaught exceptions."""
