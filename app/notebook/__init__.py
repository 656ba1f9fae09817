"""Widgets for notebooks: a trace, and the map of experts, by the scripts of the dashboard's pages.

``%load_ext ringlens`` in a notebook shows traces, and what :meth:`ringlens.Store.routing` gives for
all layers, as widgets; ``ringlens.widget(thing)`` makes one by hand. They need the extra
``notebook``: ``pip install "ringlens[notebook]"``.
"""
