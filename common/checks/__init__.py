"""What is wrong with the files of a data set: a module for each data set, over what files of one format must hold."""
