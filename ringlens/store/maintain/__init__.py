"""Maintains a store: compaction, deletion, merging, export, scans and rollups of usage."""
