"""Commands that act on a model: what happens without some of its parts."""
