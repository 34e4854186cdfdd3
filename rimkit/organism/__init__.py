"""The embedded models: an invented language, and the recipe that trains tiny transformers on it."""
