"""From a trained model to a served one: bundle and registry."""
