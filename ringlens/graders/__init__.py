"""Graders of answers: multiple choice, LaTeX, and programs, which run in confined processes."""
