"""The tables and views of a store as data, with the meaning of every column."""
