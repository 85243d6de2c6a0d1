"""Shows a case: JSON, text, one page."""
