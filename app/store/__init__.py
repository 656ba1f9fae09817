"""The first page: what a store holds, and the grid of its traces."""
