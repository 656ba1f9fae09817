"""The table of annotations, and the view of those that stand."""
