"""Training: the corpora, and fine-tuning on them."""
