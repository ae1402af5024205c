"""Images: where they come from, in what order, and the views made of each."""
