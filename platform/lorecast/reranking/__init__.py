"""Re-ranking: lists of items, models that see a list whole, their training."""
