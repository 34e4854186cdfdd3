"""Models: how they are found, loaded, read and changed inside; no words on what they do."""
