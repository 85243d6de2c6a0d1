"""Measures what telemetry costs, as ratios against the cheapest thing that could do the job on the same machine.

Machines differ, and a shared one differs from minute to minute. So all contenders of a comparison take turns within one
run, every turn gives one ratio, and what is reported is the median of the ratios with their range.
"""
