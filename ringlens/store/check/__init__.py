"""Checks a store against what it says of itself; repairs what needs no guessing."""
