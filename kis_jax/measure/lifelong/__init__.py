"""What becomes of a model that is edited again and again."""
