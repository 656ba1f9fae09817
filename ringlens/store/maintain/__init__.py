"""Upkeep of a store: compaction, deletion, merging, export, and sums of usage."""
