"""The list of traces: its rows, what its address asks for, and the neighbours of a trace in it."""
