"""What a model does: prompts, generation, judges, and rates with intervals."""
