"""Folders in the layout of math-rollouts (Thought Anchors, arXiv 2506.19143), read and written."""
