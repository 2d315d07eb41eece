"""Methods measured over sets of pictures: the tasks' parts run on data, and the metrics of what came out."""
