"""Click models: feature embeddings, backbones, extractors."""
