"""A second family, known to tests alone: transformers' Qwen3-MoE, behind one row in the table.

Softmax router without groups, bias or shared experts; plain attention with a projection each for
queries, keys and values; dense layers wherever the configuration puts them. The files have the
names that every family's files have.
"""
