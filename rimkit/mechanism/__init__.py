"""Experiments inside the model: where refusal lives, which heads carry it (chapters 03 and 04)."""
