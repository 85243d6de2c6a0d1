"""Opens the store, and brings in what dead runs, damaged databases and JSON logs still hold."""
