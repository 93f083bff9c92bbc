"""What a model says, edited or not: probabilities, texts, and the literature's measures."""
