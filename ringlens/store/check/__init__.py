"""Checks that a store is intact and consistent; repairs what can be repaired without guessing."""
