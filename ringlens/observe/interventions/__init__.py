"""Interventions at work: resolved for a model, attached to it, and what they did."""
