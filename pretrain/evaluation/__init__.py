"""How good the features of an encoder are: nearest neighbours, linear classifiers, accuracy of a classifier."""
