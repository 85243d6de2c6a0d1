"""The parts of `logging`: entries, message budgets, levels, the daily file."""
