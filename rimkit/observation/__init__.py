"""Experiments on behaviour alone: what thinking does to a model, seen from outside (chapters 01 and 02)."""
