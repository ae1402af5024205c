"""A trained model in use: predictions on images that nobody has labelled, and its export."""
