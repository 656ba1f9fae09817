"""Figures of single experts: their words, their card."""
