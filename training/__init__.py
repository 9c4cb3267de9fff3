"""Makes checkpoint versions: datasets, the fit, its export to the registry, and a predictor."""
