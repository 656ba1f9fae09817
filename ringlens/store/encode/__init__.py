"""Rows of a table from what was recorded, and the columns that hold them."""
