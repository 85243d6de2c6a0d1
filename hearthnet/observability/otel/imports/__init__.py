"""Records of a file of OTLP, of another node or program, as a store of its own."""
