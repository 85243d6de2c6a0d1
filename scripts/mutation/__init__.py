"""Changes the code in small ways, and tells which changes no test notices; scripts/mutate runs it."""
