"""`kis mcqa`: multiple-choice questions."""
