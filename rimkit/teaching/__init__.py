"""What chapters show to a learner, and what a learner does."""
