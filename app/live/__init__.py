"""The page on which a model thinks live."""
