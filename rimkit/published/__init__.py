"""The paper's published numbers, examined again: averages, counts, correlations and power, without a model."""
