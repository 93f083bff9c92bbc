"""A model over tokens: keys, second moments, target values, scores, generated text."""
