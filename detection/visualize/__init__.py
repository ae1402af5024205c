"""Pictures of images' ground truth beside the predictions of several runs."""
