"""What a model's scores are worth: figures, slices, and how sure they are."""
