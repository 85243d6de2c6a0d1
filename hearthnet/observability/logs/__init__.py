"""Behind `logging`: entries, message budgets, levels, the daily file."""
