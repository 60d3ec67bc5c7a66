"""The stages, what they are made of, what is done and what is not."""
