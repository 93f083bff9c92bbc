"""Multiple choice: scores of choices, and how well they answer."""
