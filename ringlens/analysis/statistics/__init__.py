"""Uncertainty of tables whose unit is the trace: intervals, p-values, false discoveries."""
